//! Whom HTTPS trusts: the system's certificate authorities, and those of a file.

use crate::object_store::StoreError;
use futures_rustls::TlsConnector;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;

/// Reads the certificate authorities, once per store: these are blocking reads, at the start.
///
/// # Errors
/// [`StoreError::Refused`] if the file cannot be used, or if nobody would be trusted.
pub(super) fn connector(ca_file: Option<&Path>) -> Result<TlsConnector, StoreError> {
    let refused = |text: String| StoreError::Refused(text);
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    // Some certificates of a system may be unusable; what counts is whether any is left.
    roots.add_parsable_certificates(system.certs);
    if let Some(path) = ca_file {
        let unusable = |error: &dyn std::fmt::Display| refused(format!("CA file {}: {error}", path.display()));
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| unusable(&error))?;
        if certificates.is_empty() {
            return Err(unusable(&"no certificate in it"));
        }
        for certificate in certificates {
            roots.add(certificate).map_err(|error| unusable(&error))?;
        }
    }
    if roots.is_empty() {
        let why = system
            .errors
            .first()
            .map_or_else(String::new, |error| format!(": {error}"));
        return Err(refused(format!("no certificate authorities on this system{why}")));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| refused(format!("TLS: {error}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

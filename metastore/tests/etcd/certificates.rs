//! Certificates for one test: an authority, a server on loopback, a client.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use std::path::{Path, PathBuf};

/// PEM files below a directory.
pub struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    pub fn new(directory: &Path) -> Self {
        std::fs::create_dir_all(directory).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let certificates = Certificates {
            directory: directory.to_path_buf(),
        };
        std::fs::write(certificates.file("ca.pem"), authority.pem()).unwrap();
        for (name, usage) in [
            ("server", ExtendedKeyUsagePurpose::ServerAuth),
            ("client", ExtendedKeyUsagePurpose::ClientAuth),
        ] {
            let mut params = CertificateParams::new(vec!["127.0.0.1".to_string(), "etcd.test".to_string()]).unwrap();
            // etcd uses its own certificate as a client of itself, too.
            params.extended_key_usages = vec![usage, ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &authority).unwrap();
            std::fs::write(certificates.file(&format!("{name}.pem")), certificate.pem()).unwrap();
            std::fs::write(certificates.file(&format!("{name}-key.pem")), key.serialize_pem()).unwrap();
        }
        certificates
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

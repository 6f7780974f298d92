//! Certificates of an etcd that the operator runs: decided from what there is and from the time, made anew long before
//! they end.
//!
//! An authority is trusted for a while before it signs anything, so that nobody meets a certificate of an authority that
//! he does not know yet; and it stays trusted until it ends.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

const DAY: i64 = 24 * 3600;
/// How long an authority lasts, in seconds.
const AUTHORITY_SECONDS: i64 = 3650 * DAY;
/// The next authority is there so long before the last one ends.
const AUTHORITY_RENEWAL: i64 = 730 * DAY;
/// So long an authority is trusted before it signs: members and brokers were restarted meanwhile, one by one.
const TRUST_BEFORE_USE: i64 = 7 * DAY;
/// How long a certificate lasts.
const CERTIFICATE_SECONDS: i64 = 365 * DAY;
/// It is made anew so long before it ends.
const CERTIFICATE_RENEWAL: i64 = 90 * DAY;
/// Clocks of nodes differ.
const CLOCK_SKEW: i64 = 3600;

/// Who signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// PEM.
    pub certificate: String,
    /// PEM.
    pub key: String,
    /// When it was made, in seconds since 1970.
    pub since: i64,
    /// When it ends, in seconds since 1970.
    pub until: i64,
}

/// What somebody shows, and who signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// PEM.
    pub certificate: String,
    /// PEM.
    pub key: String,
    /// When it ends, in seconds since 1970.
    pub until: i64,
    /// [`fingerprint`] of its authority.
    pub issuer: String,
}

/// What a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// A member of etcd, towards clients and other members, under these names of hosts.
    Member(Vec<String>),
    /// A client of etcd. Without names: etcd compares those with the client's address.
    Client,
}

/// Authorities from now on; the known ones come first.
///
/// # Errors
/// If a key or certificate cannot be made.
pub fn authorities(mut known: Vec<Authority>, now: i64) -> Result<Vec<Authority>, rcgen::Error> {
    known.retain(|authority| authority.until > now);
    if known.iter().all(|authority| authority.until - now < AUTHORITY_RENEWAL) {
        known.push(new_authority(now)?);
    }
    Ok(known)
}

/// The authority that signs now: the newest one that was trusted for long enough, or else the oldest.
pub fn signer(authorities: &[Authority], now: i64) -> Option<&Authority> {
    let mut trusted = authorities.iter().rev();
    trusted
        .find(|authority| authority.since + TRUST_BEFORE_USE <= now)
        .or(authorities.first())
}

/// All authorities as one PEM file.
pub fn bundle(authorities: &[Authority]) -> String {
    authorities
        .iter()
        .map(|authority| authority.certificate.as_str())
        .collect()
}

/// Tells an authority, or anything else, from others.
pub fn fingerprint(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Whether `certificate` has to be made anew.
pub fn is_due(certificate: Option<&Certificate>, authorities: &[Authority], now: i64) -> bool {
    let known = |certificate: &Certificate| {
        authorities
            .iter()
            .any(|authority| fingerprint(&authority.certificate) == certificate.issuer)
    };
    certificate.is_none_or(|certificate| certificate.until - now < CERTIFICATE_RENEWAL || !known(certificate))
}

/// A new certificate by `authority`.
///
/// # Errors
/// If it cannot be made.
pub fn issue(authority: &Authority, purpose: &Purpose, now: i64) -> Result<Certificate, rcgen::Error> {
    // It does not outlast who signed it.
    let until = (now + CERTIFICATE_SECONDS).min(authority.until);
    let mut params = CertificateParams::default();
    let name = match purpose {
        Purpose::Member(_) => "kafscale etcd member",
        Purpose::Client => "kafscale etcd client",
    };
    params.distinguished_name = common_name(name);
    params.not_before = at(now - CLOCK_SKEW)?;
    params.not_after = at(until)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if let Purpose::Member(hosts) = purpose {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        for host in hosts {
            params.subject_alt_names.push(match host.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(host.as_str().try_into()?),
            });
        }
    }
    let key = KeyPair::generate()?;
    let issuer = Issuer::new(
        authority_params(authority.since, authority.until)?,
        KeyPair::from_pem(&authority.key)?,
    );
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(Certificate {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
        until,
        issuer: fingerprint(&authority.certificate),
    })
}

fn new_authority(now: i64) -> Result<Authority, rcgen::Error> {
    let until = now + AUTHORITY_SECONDS;
    let key = KeyPair::generate()?;
    let certificate = authority_params(now, until)?.self_signed(&key)?;
    Ok(Authority {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
        since: now,
        until,
    })
}

fn authority_params(since: i64, until: i64) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&format!("kafscale etcd authority of {since}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = at(since - CLOCK_SKEW)?;
    params.not_after = at(until)?;
    Ok(params)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn at(seconds: i64) -> Result<OffsetDateTime, rcgen::Error> {
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| rcgen::Error::Time)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn a_first_authority_signs_at_once_and_stays() {
        let first = authorities(Vec::new(), NOW).unwrap();
        assert_eq!(first.len(), 1);
        assert_eq!(signer(&first, NOW), Some(&first[0]));
        assert_eq!(authorities(first.clone(), NOW + 1000 * DAY).unwrap(), first);
    }

    #[test]
    fn the_next_authority_is_trusted_before_it_signs_and_the_old_one_until_it_ends() {
        let first = authorities(Vec::new(), NOW).unwrap();
        let later = first[0].until - AUTHORITY_RENEWAL + 1;
        let both = authorities(first.clone(), later).unwrap();
        assert_eq!((both.len(), &both[0]), (2, &first[0]));
        assert_eq!(signer(&both, later), Some(&both[0]));
        assert_eq!(signer(&both, later + TRUST_BEFORE_USE), Some(&both[1]));
        assert!(bundle(&both).contains(&first[0].certificate) && bundle(&both).contains(&both[1].certificate));
        let alone = authorities(both.clone(), first[0].until).unwrap();
        assert_eq!(alone, both[1..]);
    }

    #[test]
    fn a_certificate_is_due_before_it_ends_and_when_nobody_knows_who_signed_it() {
        let known = authorities(Vec::new(), NOW).unwrap();
        let certificate = issue(&known[0], &Purpose::Client, NOW).unwrap();
        assert!(is_due(None, &known, NOW));
        assert!(!is_due(Some(&certificate), &known, NOW));
        assert!(is_due(
            Some(&certificate),
            &known,
            certificate.until - CERTIFICATE_RENEWAL + 1
        ));
        let others = authorities(Vec::new(), NOW + 1).unwrap();
        assert!(is_due(Some(&certificate), &others, NOW));
    }

    #[test]
    fn no_certificate_outlasts_its_authority() {
        let known = authorities(Vec::new(), NOW).unwrap();
        let late = known[0].until - DAY;
        assert_eq!(issue(&known[0], &Purpose::Client, late).unwrap().until, known[0].until);
    }
}

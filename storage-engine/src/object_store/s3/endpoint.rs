//! Where a bucket is: scheme, host and port, and whether its name is in the host or in the path.

use super::config::Bucket;
use crate::object_store::StoreError;

/// A bucket's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) tls: bool,
    /// What is resolved and what the certificate is for; with the bucket's name if that is in the host.
    pub(super) host: String,
    pub(super) port: u16,
    /// The bucket's name is the first part of the path.
    pub(super) path_style: bool,
}

impl Endpoint {
    /// Reads a bucket's address.
    ///
    /// # Errors
    /// [`StoreError::Refused`] if it is none.
    pub(super) fn of(bucket: &Bucket, path_style: bool) -> Result<Self, StoreError> {
        let given = bucket.endpoint.clone().unwrap_or_else(|| aws(&bucket.region));
        let refused = |why: &str| StoreError::Refused(format!("S3 endpoint {given:?}: {why}"));
        if bucket.name.is_empty() || bucket.name.contains('/') {
            return Err(StoreError::Refused(format!("S3 bucket {:?} is no name", bucket.name)));
        }
        let (tls, rest) = match given.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            _ => return Err(refused("must begin with http:// or https://")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.is_empty() || authority.contains(['/', '?', '#', '@']) {
            return Err(refused("must be a host and perhaps a port, without a path"));
        }
        let (host, port) = match authority.rsplit_once(':') {
            // The colons of an IPv6 address are within its brackets.
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| refused("the port is none"))?)
            }
            _ => (authority, if tls { 443 } else { 80 }),
        };
        // A wildcard certificate covers one label, so a name with dots would not be trusted; an address has no subdomain.
        let path_style = path_style || (tls && bucket.name.contains('.')) || is_address(host);
        let host = match path_style {
            true => host.to_string(),
            false => format!("{}.{host}", bucket.name),
        };
        Ok(Endpoint {
            tls,
            host,
            port,
            path_style,
        })
    }

    /// The Host header.
    pub(super) fn authority(&self) -> String {
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }

    /// The path of a request for `/bucket...` as it is sent.
    pub(super) fn path<'a>(&self, bucket: &str, path: &'a str) -> &'a str {
        if self.path_style {
            return path;
        }
        let key = path.strip_prefix('/').and_then(|path| path.strip_prefix(bucket));
        match key {
            Some("") => "/",
            Some(key) => key,
            None => path,
        }
    }
}

fn is_address(host: &str) -> bool {
    host.starts_with('[') || host.parse::<std::net::IpAddr>().is_ok()
}

fn aws(region: &str) -> String {
    let domain = if region.starts_with("cn-") {
        "amazonaws.com.cn"
    } else {
        "amazonaws.com"
    };
    format!("https://s3.{region}.{domain}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str, endpoint: Option<&str>, path_style: bool) -> Result<Endpoint, StoreError> {
        let bucket = Bucket {
            name: name.to_string(),
            region: "eu-west-1".to_string(),
            endpoint: endpoint.map(str::to_string),
            connect_to: Vec::new(),
        };
        Endpoint::of(&bucket, path_style)
    }

    #[test]
    fn the_host_header_names_bucket_and_port_as_needed() {
        for (bucket, given, path_style, expected) in [
            ("b", None, false, "b.s3.eu-west-1.amazonaws.com"),
            ("b", None, true, "s3.eu-west-1.amazonaws.com"),
            ("b.c", None, false, "s3.eu-west-1.amazonaws.com"),
            ("b", Some("http://store:9000"), false, "b.store:9000"),
            ("b", Some("http://store:80/"), true, "store"),
            ("b", Some("https://store"), true, "store"),
            ("b", Some("http://127.0.0.1:9000"), false, "127.0.0.1:9000"),
            ("b", Some("http://[::1]:9000"), false, "[::1]:9000"),
            ("b", Some("http://[::1]"), false, "[::1]"),
        ] {
            let endpoint = endpoint(bucket, given, path_style).expect("an endpoint");
            assert_eq!(endpoint.authority(), expected);
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for given in [
            "store:9000",
            "ftp://store",
            "http://",
            "http://store/path",
            "http://store:x",
            "http://u@store",
        ] {
            let refused = endpoint("b", Some(given), true);
            assert!(matches!(refused, Err(StoreError::Refused(_))), "{given}: {refused:?}");
        }
        assert!(endpoint("", None, true).is_err());
    }

    #[test]
    fn a_bucket_in_the_host_is_not_in_the_path() {
        let in_host = endpoint("b", None, false).expect("an endpoint");
        let paths = ["/b", "/b/", "/b/b/key"].map(|path| in_host.path("b", path));
        assert_eq!(paths, ["/", "/", "/b/key"]);
        let in_path = endpoint("b", None, true).expect("an endpoint");
        assert_eq!(in_path.path("b", "/b/key"), "/b/key");
    }
}

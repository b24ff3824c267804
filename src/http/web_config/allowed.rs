//! `client_allowed_sans`: which clients are admitted because of a name in their certificate.

use std::net::IpAddr;

use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use webpki::EndEntityCert;

/// Names of which a certificate must have one: an exact match, without wildcards.
#[derive(Debug)]
pub(super) struct AllowedNames(Vec<String>);

impl AllowedNames {
    pub(super) fn parse(names: &[String]) -> Result<Self, String> {
        let is_mail = |name: &&String| name.contains('@') && !name.contains(':');
        if let Some(mail) = names.iter().find(is_mail) {
            return Err(format!(
                "client_allowed_sans: '{mail}' is an e-mail address, which is not supported; use a DNS name, an IP address or a URI"
            ));
        }
        Ok(Self(names.to_vec()))
    }

    /// Whether a client's certificate has one of the names.
    pub(super) fn has(&self, certificate: &CertificateDer) -> bool {
        let Ok(certificate) = EndEntityCert::try_from(certificate) else {
            return false;
        };
        self.0.iter().any(|name| {
            if let Ok(ip) = name.parse::<IpAddr>() {
                let ip = ServerName::IpAddress(ip.into());
                return certificate.verify_is_valid_for_subject_name(&ip).is_ok();
            }
            certificate.valid_dns_names().any(|dns| dns == name)
                || certificate.valid_uri_names().any(|uri| uri == name)
        })
    }
}

//! `tls_server_config`: the certificate of the server, and which clients it admits.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::{self, kx_group};
use tokio_rustls::rustls::crypto::{CryptoProvider, SupportedKxGroup};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::{
    RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion, version,
};
use tokio_rustls::server::TlsStream;

use super::allowed::AllowedNames;
use super::printable;

const KEYS: &str = "the key is not a PEM key without passphrase of type RSA (2048 to 8192 bits), P-256, P-384 or Ed25519";
/// Suites that other servers support and this one does not. In a list with other suites they are skipped.
const CBC_SUITES: [&str; 4] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
];

/// The section as written.
#[derive(Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct TlsSection {
    cert: Option<String>,
    cert_file: Option<PathBuf>,
    key: Option<String>,
    key_file: Option<PathBuf>,
    client_ca: Option<String>,
    client_ca_file: Option<PathBuf>,
    client_auth_type: Option<String>,
    client_allowed_sans: Option<Vec<String>>,
    min_version: Option<Version>,
    max_version: Option<Version>,
    cipher_suites: Vec<String>,
    prefer_server_cipher_suites: Option<bool>,
    curve_preferences: Vec<Curve>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
enum Version {
    #[serde(rename = "TLS10")]
    Tls10,
    #[serde(rename = "TLS11")]
    Tls11,
    #[serde(rename = "TLS12")]
    Tls12,
    #[serde(rename = "TLS13")]
    Tls13,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Curve {
    CurveP256,
    CurveP384,
    CurveP521,
    X25519,
}

/// The PEM that the section contains or names.
#[derive(PartialEq)]
pub(super) struct Pem {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// What a handshake needs.
#[derive(Clone)]
pub(in crate::http) struct Tls {
    /// Certificate, key, versions, and the authorities of client certificates.
    config: Arc<ServerConfig>,
    /// The names of which a client certificate must have one.
    allowed: Option<Arc<AllowedNames>>,
}

/// Which clients are admitted, from all to few.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Clients {
    Anybody,
    VerifiedIfGiven,
    Verified,
}

impl Tls {
    /// The server's side of a handshake.
    ///
    /// # Errors
    /// If the client fails the handshake or is not admitted.
    pub(in crate::http) async fn accept<S>(&self, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.config));
        let stream = acceptor.accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates();
        let shown = shown.and_then(<[_]>::first);
        if let (Some(allowed), Some(certificate)) = (&self.allowed, shown)
            && !allowed.has(certificate)
        {
            let message =
                "the certificate of the client has none of the names in client_allowed_sans";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        Ok(stream)
    }
}

impl TlsSection {
    /// Whether the section is empty.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether clients are selected by the names in their certificates.
    pub(super) fn compares_names(&self) -> bool {
        self.client_allowed_sans.is_some()
    }

    /// Reads the named files, from `directory` if their paths are relative.
    pub(super) fn read(&self, directory: &Path) -> Result<Pem, String> {
        let pem = |name, file: &Option<PathBuf>, inline: &Option<String>| {
            pem(name, directory, file.as_deref(), inline.as_deref())
        };
        let missing = |name| format!("tls_server_config: {name} and {name}_file are both missing");
        Ok(Pem {
            cert: pem("cert", &self.cert_file, &self.cert)?.ok_or_else(|| missing("cert"))?,
            key: pem("key", &self.key_file, &self.key)?.ok_or_else(|| missing("key"))?,
            client_ca: pem("client_ca", &self.client_ca_file, &self.client_ca)?,
        })
    }

    /// The TLS settings with this PEM.
    pub(super) fn build(&self, pem: &Pem) -> Result<Tls, String> {
        let provider = Arc::new(CryptoProvider {
            cipher_suites: self.suites()?,
            kx_groups: self.curves()?,
            ..ring::default_provider()
        });
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(self.versions()?)
            .map_err(|error| format!("tls_server_config: {error}"))?;
        let builder = match self.authorities(pem)? {
            None if self.compares_names() => {
                return Err(
                    "client_allowed_sans requires client_auth_type RequireAndVerifyClientCert and client_ca_file"
                        .to_owned(),
                );
            }
            None => builder.with_no_client_auth(),
            Some((authorities, clients)) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider);
                let verifier = if clients == Clients::VerifiedIfGiven {
                    verifier.allow_unauthenticated()
                } else {
                    verifier
                };
                let verifier = verifier
                    .build()
                    .map_err(|error| format!("client_ca: {error}"))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = certificates("cert", &pem.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&pem.key).map_err(|_| {
            format!("key: {KEYS}; write an inline key as `key: |`, which keeps its lines")
        })?;
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| format!("cert and key do not belong together, or {KEYS}: {error}"))?;
        config.ignore_client_order = self.prefer_server_cipher_suites.unwrap_or(true);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A returning client must authenticate again, and no session is kept in memory.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let allowed = self.client_allowed_sans.as_deref();
        Ok(Tls {
            config: Arc::new(config),
            allowed: allowed.map(AllowedNames::parse).transpose()?.map(Arc::new),
        })
    }

    /// The authorities of client certificates, if certificates are requested.
    fn authorities(&self, pem: &Pem) -> Result<Option<(RootCertStore, Clients)>, String> {
        let clients = self.clients()?;
        let Some(text) = &pem.client_ca else {
            return match clients {
                Clients::Verified => Err(
                    "client_auth_type RequireAndVerifyClientCert requires client_ca_file, otherwise no client would be admitted"
                        .to_owned(),
                ),
                // Without an authority, no certificate can be verified, so none is requested.
                Clients::VerifiedIfGiven | Clients::Anybody => Ok(None),
            };
        };
        if clients == Clients::Anybody {
            return Err(
                "client_ca is set but client_auth_type is not; set it, as in RequireAndVerifyClientCert"
                    .to_owned(),
            );
        }
        let mut authorities = RootCertStore::empty();
        for certificate in certificates("client_ca", text)? {
            authorities
                .add(certificate)
                .map_err(|error| format!("client_ca: {error}"))?;
        }
        Ok(Some((authorities, clients)))
    }

    /// Which clients are admitted.
    pub(super) fn clients(&self) -> Result<Clients, String> {
        match self.client_auth_type.as_deref().unwrap_or_default() {
            "" | "NoClientCert" => Ok(Clients::Anybody),
            "VerifyClientCertIfGiven" => Ok(Clients::VerifiedIfGiven),
            "RequireAndVerifyClientCert" => Ok(Clients::Verified),
            unverified @ ("RequestClientCert" | "RequireAnyClientCert" | "RequireClientCert") => {
                Err(format!(
                    "client_auth_type {unverified} would accept any certificate; use RequireAndVerifyClientCert"
                ))
            }
            other => Err(format!(
                "client_auth_type '{}' is not one of NoClientCert, VerifyClientCertIfGiven, RequireAndVerifyClientCert",
                printable(other)
            )),
        }
    }

    fn versions(&self) -> Result<&'static [&'static SupportedProtocolVersion], String> {
        static BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
        let least = self.min_version.unwrap_or(Version::Tls12);
        let most = self.max_version.unwrap_or(Version::Tls13);
        if least < Version::Tls12 || most < Version::Tls12 {
            return Err(
                "min_version and max_version: TLS10 and TLS11 are not secure and not supported; use TLS12 or TLS13"
                    .to_owned(),
            );
        }
        match (least, most) {
            (Version::Tls12, Version::Tls12) => Ok(&BOTH[1..]),
            (Version::Tls13, Version::Tls13) => Ok(&BOTH[..1]),
            (least, most) if least < most => Ok(&BOTH),
            _ => Err("min_version is higher than max_version".to_owned()),
        }
    }

    /// The suites in order of preference. Those of TLS 1.3 cannot be left out.
    fn suites(&self) -> Result<Vec<SupportedCipherSuite>, String> {
        let all = ring::DEFAULT_CIPHER_SUITES;
        if self.cipher_suites.is_empty() {
            return Ok(all.to_vec());
        }
        let mut chosen = Vec::new();
        for name in &self.cipher_suites {
            match all.iter().find(|suite| name_of(suite) == *name) {
                Some(suite) => chosen.push(*suite),
                None if CBC_SUITES.contains(&name.as_str()) => {}
                None => return Err(unknown_suite(name, all)),
            }
        }
        if chosen.is_empty() {
            return Err(unknown_suite(&self.cipher_suites.join(", "), all));
        }
        for suite in all {
            if suite.tls13().is_some() && !chosen.contains(suite) {
                chosen.push(*suite);
            }
        }
        Ok(chosen)
    }

    fn curves(&self) -> Result<Vec<&'static dyn SupportedKxGroup>, String> {
        if self.curve_preferences.is_empty() {
            return Ok(ring::ALL_KX_GROUPS.to_vec());
        }
        let group = |curve: &Curve| -> Option<&'static dyn SupportedKxGroup> {
            match curve {
                Curve::CurveP256 => Some(kx_group::SECP256R1),
                Curve::CurveP384 => Some(kx_group::SECP384R1),
                Curve::X25519 => Some(kx_group::X25519),
                Curve::CurveP521 => None,
            }
        };
        let groups: Vec<_> = self.curve_preferences.iter().filter_map(group).collect();
        if groups.is_empty() {
            return Err(
                "curve_preferences: CurveP521 is not supported; add X25519, CurveP256 or CurveP384"
                    .to_owned(),
            );
        }
        Ok(groups)
    }
}

/// The bytes of the file, or else the inline text.
fn pem(
    name: &str,
    directory: &Path,
    file: Option<&Path>,
    inline: Option<&str>,
) -> Result<Option<Vec<u8>>, String> {
    let Some(path) = file.filter(|path| !path.as_os_str().is_empty()) else {
        let inline = inline.filter(|text| !text.is_empty());
        return Ok(inline.map(|text| text.as_bytes().to_vec()));
    };
    let read = super::read(&directory.join(path));
    let read = read.map_err(|error| {
        // It may be the key itself.
        let path = printable(path.to_str().unwrap_or_default());
        format!("{name}_file {path}: {error}")
    });
    read.map(Some)
}

/// The error does not quote the content, which may be a key.
fn certificates(name: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    read.ok().filter(|found| !found.is_empty()).ok_or_else(|| {
        format!("{name}: it contains no PEM certificate; write inline certificates as `{name}: |`, which keeps their lines")
    })
}

/// The registered name, as used in web configurations.
fn name_of(suite: &SupportedCipherSuite) -> String {
    let name = suite.suite().as_str().unwrap_or_default();
    name.replacen("TLS13_", "TLS_", 1)
}

fn unknown_suite(name: &str, all: &[SupportedCipherSuite]) -> String {
    let served: Vec<_> = all.iter().map(name_of).collect();
    format!(
        "cipher_suites: '{}' is not supported; the supported suites are {}",
        printable(name),
        served.join(", ")
    )
}

//! `--web.config.file`: who gets in, with real certificates and clients, and what happens when the file changes.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use headers::authorization::{Authorization, Credentials as _};
use listen_queue_exporter::http::WebConfig;
use rustix::process::Signal;

use crate::common::exporter::Exporter;
use crate::common::http::connect;
use crate::common::namespace::Namespace;
use crate::common::program::{self, Process, directory};
use crate::common::socket::Listener;
use crate::common::wait;

pub(crate) const TLS: &str =
    "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n";
const MUTUAL: &str = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n";

/// The hash of a password that no user has.
const HASH: &str = "$2y$10$abcdefghijklmnopqrstuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuu";

/// A directory with certificates, and a web config.
pub(crate) struct Site(tempfile::TempDir);

impl Site {
    pub(crate) fn new() -> Self {
        let site = Self(directory());
        fs::write(
            site.path("openssl.conf"),
            "[req]\ndistinguished_name=name\n[name]\n",
        )
        .unwrap();
        site.certify("ca", "basicConstraints=critical,CA:TRUE", None);
        site.certify_server();
        site
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// Makes NAME.pem and NAME.key.
    fn certify(&self, name: &str, extension: &str, authority: Option<&str>) {
        let mut openssl = program::command("openssl");
        openssl.args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"]);
        openssl.args(["-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        openssl.args(["-config", &self.path("openssl.conf")]);
        openssl.args(["-subj", &format!("/CN={name}"), "-addext", extension]);
        openssl.args(["-out", &self.path(&format!("{name}.pem"))]);
        openssl.args(["-keyout", &self.path(&format!("{name}.key"))]);
        if let Some(authority) = authority {
            openssl.args(["-CA", &self.path(&format!("{authority}.pem"))]);
            openssl.args(["-CAkey", &self.path(&format!("{authority}.key"))]);
        }
        program::run(&mut openssl);
    }

    fn certify_server(&self) {
        self.certify("server", "subjectAltName=IP:127.0.0.1", Some("ca"));
    }

    fn write(&self, config: &str) -> String {
        let path = self.path("web.yml");
        fs::write(&path, config).unwrap();
        path
    }

    pub(crate) fn start(&self, config: &str) -> Exporter {
        let path = self.write(config);
        Exporter::spawn_closed(Exporter::command(&["--web.config.file", &path]))
    }

    /// Requests a path over TLS with the certificate. Returns the status, or curl's exit code.
    pub(crate) fn ask(
        &self,
        exporter: &Exporter,
        certificate: Option<&str>,
        more: &[&str],
    ) -> Result<u16, i32> {
        let mut curl = curl();
        curl.args(["--cacert", &self.path("ca.pem")]);
        if let Some(name) = certificate {
            curl.args(["--cert", &self.path(&format!("{name}.pem"))]);
            curl.args(["--key", &self.path(&format!("{name}.key"))]);
        }
        curl.args(more);
        status(curl.arg(format!("https://{}/metrics", exporter.address())))
    }
}

fn curl() -> Command {
    let mut curl = program::command("curl");
    curl.args([
        "--silent",
        "--noproxy",
        "*",
        "--max-time",
        "20",
        "--output",
        "/dev/null",
    ]);
    curl.args(["--write-out", "%{http_code}"]);
    curl
}

fn status(curl: &mut Command) -> Result<u16, i32> {
    let output = curl.output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap().parse().unwrap())
    } else {
        Err(output.status.code().unwrap())
    }
}

/// As `user: hash` lines of a config.
fn users(users: &[(&str, &str)]) -> String {
    let line = |(user, password): &(&str, &str)| {
        format!("  {user}: {}\n", bcrypt::hash(password, 4).unwrap())
    };
    let lines: String = users.iter().map(line).collect();
    format!("basic_auth_users:\n{lines}")
}

pub(crate) fn authorization(user: &str, password: &str) -> String {
    let basic = Authorization::basic(user, password).0.encode();
    format!("Authorization: {}", basic.to_str().unwrap())
}

#[test]
fn with_a_certificate_every_connection_is_tls_1_2_or_1_3() {
    let _namespace = Namespace::enter();
    let site = Site::new();
    let exporter = site.start(TLS);
    assert_eq!(site.ask(&exporter, None, &[]), Ok(200));
    assert_eq!(site.ask(&exporter, None, &["--tls-max", "1.2"]), Ok(200));
    assert_eq!(site.ask(&exporter, None, &["--tlsv1.3"]), Ok(200));
    assert_eq!(site.ask(&exporter, None, &["--http2"]), Ok(200));
    // 35: the handshake failed. The client is willing to talk TLS 1.1.
    let old = [
        "--tlsv1.0",
        "--tls-max",
        "1.1",
        "--ciphers",
        "DEFAULT:@SECLEVEL=0",
    ];
    assert_eq!(site.ask(&exporter, None, &old), Err(35));
    // 60: who trusts another authority does not talk to it.
    let mut stranger = curl();
    stranger.arg(format!("https://{}/metrics", exporter.address()));
    assert_eq!(status(&mut stranger), Err(60));
    // Plain HTTP gets no HTTP back.
    let mut plain = curl();
    plain.arg(format!("http://{}/metrics", exporter.address()));
    assert!(status(&mut plain).is_err());
}

#[test]
fn versions_suites_and_curves_are_those_of_the_config() {
    let _namespace = Namespace::enter();
    let site = Site::new();
    let exporter = site.start(TLS);
    let only = |config: &str, good: &[&str], bad: &[&str]| {
        site.write(&format!("{TLS}{config}"));
        assert_eq!(site.ask(&exporter, None, good), Ok(200), "{config}");
        assert_eq!(site.ask(&exporter, None, bad), Err(35), "{config}");
    };
    only("  min_version: TLS13\n", &[], &["--tls-max", "1.2"]);
    only("  max_version: TLS12\n", &[], &["--tlsv1.3"]);
    let with = |name| ["--tls-max", "1.2", "--ciphers", name];
    let (gcm, chacha) = (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
    );
    only(
        "  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]\n",
        &with(gcm),
        &with(chacha),
    );
    let preferred = |config: &str| {
        let suites =
            "[TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]";
        site.write(&format!("{TLS}  cipher_suites: {suites}\n{config}"));
        let mut openssl = program::command("openssl");
        openssl.args(["s_client", "-connect", &exporter.address().to_string()]);
        openssl.args(["-tls1_2", "-alpn", "h2,http/1.1", "-cipher"]);
        openssl.arg(format!("{gcm}:ECDHE-ECDSA-AES256-GCM-SHA384"));
        let shown = program::run(openssl.stdin(Stdio::null()));
        assert!(shown.contains("ALPN protocol: http/1.1"), "{shown}");
        assert!(!shown.contains("TLS session ticket"), "{shown}");
        shown.contains("Cipher is ECDHE-ECDSA-AES256-GCM-SHA384")
    };
    assert!(preferred(""), "the server's");
    assert!(
        !preferred("  prefer_server_cipher_suites: false\n"),
        "the client's"
    );
    only(
        "  curve_preferences: [CurveP521, CurveP384]\n",
        &["--curves", "P-384"],
        &["--curves", "X25519"],
    );
}

#[test]
fn only_clients_with_a_certificate_of_the_authority_are_let_in() {
    let _namespace = Namespace::enter();
    let site = Site::new();
    site.certify("other", "basicConstraints=critical,CA:TRUE", None);
    site.certify("friend", "subjectAltName=DNS:prometheus", Some("ca"));
    site.certify("stranger", "subjectAltName=DNS:prometheus", Some("other"));
    let if_given = MUTUAL.replace("RequireAndVerifyClientCert", "VerifyClientCertIfGiven");
    let exporter = site.start(&format!("{TLS}{if_given}"));
    assert_eq!(site.ask(&exporter, None, &[]), Ok(200));
    assert_eq!(site.ask(&exporter, Some("friend"), &[]), Ok(200));
    assert!(site.ask(&exporter, Some("stranger"), &[]).is_err());
    site.write(&format!("{TLS}{if_given}  client_allowed_sans: [other]\n"));
    assert_eq!(site.ask(&exporter, None, &[]), Ok(200));
    assert!(site.ask(&exporter, Some("friend"), &[]).is_err());

    site.write(&format!(
        "{TLS}{MUTUAL}  client_allowed_sans: [prometheus]\n"
    ));
    assert_eq!(site.ask(&exporter, Some("friend"), &[]), Ok(200));
    for version in ["1.2", "1.3"] {
        let version = ["--tls-max", version];
        assert!(site.ask(&exporter, None, &version).is_err());
        assert!(site.ask(&exporter, Some("stranger"), &version).is_err());
    }
}

#[test]
fn of_the_clients_with_a_certificate_those_with_an_allowed_name_are_let_in() {
    let _namespace = Namespace::enter();
    let site = Site::new();
    let names = [
        ("dns", "subjectAltName=DNS:one,DNS:prometheus"),
        ("ip", "subjectAltName=IP:10.0.0.7"),
        ("uri", "subjectAltName=URI:spiffe://cluster/prometheus"),
        ("wild", "subjectAltName=DNS:*.cluster.local"),
        ("none", "keyUsage=digitalSignature"),
    ];
    for (name, extension) in names {
        site.certify(name, extension, Some("ca"));
    }
    let exporter = site.start(&format!("{TLS}{MUTUAL}"));
    let let_in = |allowed: &str| {
        site.write(&format!(
            "{TLS}{MUTUAL}  client_allowed_sans: [{allowed}]\n"
        ));
        let is_in = |name: &&str| site.ask(&exporter, Some(name), &[]) == Ok(200);
        names
            .map(|(name, _)| name)
            .into_iter()
            .filter(is_in)
            .collect::<Vec<_>>()
    };
    assert_eq!(let_in("prometheus, 10.0.0.7"), ["dns", "ip"]);
    assert_eq!(let_in("'spiffe://cluster/prometheus'"), ["uri"]);
    assert_eq!(let_in("a.cluster.local, Prometheus, 10.0.0.8"), [""; 0]);
    assert_eq!(let_in("'*.cluster.local'"), ["wild"]);
    assert_eq!(let_in(""), [""; 0]);
}

#[test]
fn users_are_admitted_with_their_own_password_and_others_nowhere() {
    let _namespace = Namespace::enter();
    let site = Site::new();
    let exporter = site.start(&users(&[("ann", "a:b"), ("bob", "ü"), ("'7'", "seven")]));
    let server = exporter.address();
    let get = |path: &str, header: &str| crate::common::http::get(server, path, &[header]);
    for (user, password) in [("ann", "a:b"), ("bob", "ü"), ("7", "seven")] {
        for _ in 0..2 {
            assert_eq!(get("/metrics", &authorization(user, password)).status, 200);
        }
    }
    for path in [
        "/",
        "/metrics",
        "/-/healthy",
        "/-/ready",
        "/-/stream",
        "/api/v1/listeners",
        "/nothing",
    ] {
        let answer = get(path, "X: y");
        assert_eq!(answer.status, 401, "{path}");
        assert_eq!(answer.header("www-authenticate"), Some("Basic"));
        assert_eq!(answer.text(), "Unauthorized\n");
    }
    for wrong in [
        authorization("ann", "ü"),
        authorization("ann", "a"),
        authorization("ann", ""),
        authorization("Ann", "a:b"),
        authorization("eve", "a:b"),
        authorization("", ""),
        "Authorization: Basic".to_owned(),
        "Authorization: Basic ====".to_owned(),
        "Authorization: Basic /w==".to_owned(),
        authorization("ann", "a:b").replace("Basic", "Bearer"),
    ] {
        assert_eq!(get("/metrics", &wrong).status, 401, "{wrong}");
    }
}

#[test]
fn a_user_who_is_taken_out_is_out_on_an_open_connection_too() {
    let _namespace = Namespace::enter();
    let site = Site::new();
    let hash = bcrypt::hash("same", 4).unwrap();
    let exporter = site.start(&format!(
        "basic_auth_users:\n  ann: {hash}\n  bob: {hash}\n"
    ));
    let ask = |connection: &mut TcpStream, user: &str| {
        let header = authorization(user, "same");
        let request = format!("GET / HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n");
        connection.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 12];
        connection.read_exact(&mut answer).unwrap();
        // The rest of it.
        let _ = connection.read(&mut vec![0; 1 << 16]).unwrap();
        String::from_utf8(answer[9..].to_vec()).unwrap()
    };
    let mut connections = [0; 2].map(|_| connect(exporter.address()));
    let [ann, bob] = &mut connections;
    assert_eq!(ask(ann, "ann"), "200");
    assert_eq!(ask(bob, "bob"), "200");
    site.write(&format!("basic_auth_users:\n  bob: {hash}\n"));
    assert_eq!(ask(ann, "ann"), "401");
    assert_eq!(ask(bob, "bob"), "200");
    let other = bcrypt::hash("other", 4).unwrap();
    site.write(&format!("basic_auth_users:\n  bob: {other}\n"));
    assert_eq!(ask(bob, "bob"), "401");
}

#[test]
fn a_new_certificate_is_shown_without_a_restart() {
    let _namespace = Namespace::enter();
    let site = Site::new();
    let exporter = site.start(TLS);
    let serial = || {
        let mut openssl = program::command("openssl");
        openssl.args(["s_client", "-connect", &exporter.address().to_string()]);
        let shown = program::run(openssl.stdin(Stdio::null()));
        let (_, rest) = shown.split_once("-----BEGIN CERTIFICATE-----").unwrap();
        rest.split("-----").next().unwrap().to_owned()
    };
    let before = serial();
    assert_eq!(serial(), before);
    site.certify_server();
    assert_ne!(serial(), before);
    assert_eq!(site.ask(&exporter, None, &[]), Ok(200));
}

#[test]
fn what_is_protected_stays_so_while_the_file_cannot_be_used() {
    let _namespace = Namespace::enter();
    let site = Site::new();
    let config = format!("{TLS}{}", users(&[("ann", "a")]));
    let exporter = site.start(&config);
    let ann = ["--header", &authorization("ann", "a")];
    assert_eq!(site.ask(&exporter, None, &ann), Ok(200));
    for (broken, reason) in [
        ("nonsense", "invalid type"),
        ("", "tls_server_config was added or removed: restart"),
        (TLS, "basic_auth_users was removed: restart"),
        (&config.replace("server.key", "nowhere.key"), "nowhere.key"),
        (
            &config.replace("server.key", "ca.key"),
            "cert and key do not belong together",
        ),
    ] {
        site.write(broken);
        assert!(site.ask(&exporter, None, &ann).is_err(), "{broken}");
        let mut plain = curl();
        plain
            .args(ann)
            .arg(format!("http://{}/metrics", exporter.address()));
        assert!(status(&mut plain).is_err(), "{broken}");
        exporter.logged(&["level=error", "cannot use the web config", reason]);
        site.write(&config);
        assert_eq!(site.ask(&exporter, None, &ann), Ok(200));
    }
    let log = exporter.log();
    assert_eq!(log.matches("cannot use the web config").count(), 5, "{log}");
    assert_eq!(log.matches("can be used again").count(), 5, "{log}");
    fs::remove_file(site.path("web.yml")).unwrap();
    assert!(site.ask(&exporter, None, &ann).is_err());
    exporter.logged(&["level=error", "No such file"]);
}

#[test]
fn a_half_written_file_admits_no_client() {
    let _namespace = Namespace::enter();
    let site = Site::new();
    site.certify(
        "named",
        "subjectAltName=DNS:prometheus.monitoring",
        Some("ca"),
    );
    site.certify("short", "subjectAltName=DNS:prometheus.m", Some("ca"));
    let config = format!(
        "{}{TLS}{MUTUAL}  client_allowed_sans:\n  - prometheus.monitoring\n",
        users(&[("ann", "a")])
    );
    let exporter = site.start(&config);
    let ann = ["--header", &authorization("ann", "a")];
    assert_eq!(site.ask(&exporter, Some("named"), &ann), Ok(200));
    for length in 0..config.len() {
        site.write(&config[..length]);
        let with_name = site.ask(&exporter, Some("named"), &[]);
        assert!(with_name != Ok(200), "without a password: {length} bytes");
        for certificate in [None, Some("short")] {
            let answer = site.ask(&exporter, certificate, &ann);
            assert!(answer.is_err(), "{certificate:?}: {length} bytes");
        }
    }
    site.write(&config);
    assert_eq!(site.ask(&exporter, Some("named"), &ann), Ok(200));
}

#[test]
fn keys_and_hashes_are_not_printed() {
    let site = Site::new();
    let key = fs::read_to_string(site.path("server.key")).unwrap();
    let secret = key.lines().nth(1).unwrap();
    let indented = key
        .lines()
        .fold(String::new(), |all, line| format!("{all}    {line}\n"));
    for (config, secret) in [
        (key.clone(), secret),
        (
            format!("tls_server_config:\n  cert_file: server.pem\n  key_file: |\n{indented}"),
            secret,
        ),
        (format!("tls_server_config: |\n{indented}"), secret),
        (format!("basic_auth_users: {HASH}"), HASH),
        (format!("basic_auth_users:\n  ann:{HASH}"), HASH),
        (format!("http_server_config: {HASH}"), HASH),
        (
            format!("tls_server_config:\n  cert_file: server.pem\n  key:\n{indented}"),
            secret,
        ),
        (
            format!("tls_server_config:\n  cert_file: server.pem\n  key_file:\n{indented}"),
            secret,
        ),
        (
            format!("tls_server_config:\n  key_file: server.key\n  cert: >-\n{indented}"),
            secret,
        ),
        (
            format!("tls_server_config:\n  min_version:\n{indented}"),
            secret,
        ),
        (format!("{TLS}  cipher_suites: ['{secret}']\n"), secret),
        (format!("{TLS}  client_auth_type: {secret}\n"), secret),
        (format!("basic_auth_users: {{{HASH}: ann}}"), HASH),
        (
            format!("http_server_config: {{headers: {{{HASH}: ann}}}}"),
            HASH,
        ),
        (format!("{HASH}: ann"), HASH),
        ("basic_auth_users: 123456789".to_owned(), "123456789"),
        (format!("basic_auth_users: {{ann: {HASH}x}}"), HASH),
    ] {
        let mut exporter = Exporter::command(&["--web.config.file", &site.write(&config)]);
        let output = exporter.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(line.lines().count(), 1, "{line}");
        let is_leaked =
            line.contains(secret) || line.contains("[80, 82") || line.contains("[45, 45");
        assert!(!is_leaked, "{line}");
    }
}

#[test]
fn what_would_never_end_is_not_read() {
    let _namespace = Namespace::enter();
    let site = Site::new();
    let mut exporter = site.start(TLS);
    let fifo = site.path("fifo");
    program::run(program::command("mkfifo").arg(&fifo));
    let large = site.path("large");
    fs::File::create(&large).unwrap().set_len(1 << 21).unwrap();
    for endless in [
        fifo.as_str(),
        "/dev/zero",
        &large,
        site.0.path().to_str().unwrap(),
    ] {
        let config = TLS.replace("server.key", endless);
        let refused = WebConfig::open(site.write(&config).into()).err().unwrap();
        assert!(refused.contains("not a regular file"), "{refused}");
        assert!(site.ask(&exporter, None, &[]).is_err());
        let refused = WebConfig::open(endless.into()).err().unwrap();
        assert!(refused.contains("not a regular file"), "{refused}");
    }
    site.write(TLS);
    assert_eq!(site.ask(&exporter, None, &[]), Ok(200));
    exporter.signal(Signal::TERM);
    assert!(exporter.wait().success());
}

#[test]
fn a_password_that_takes_for_ever_to_check_does_not_keep_it_from_ending() {
    let _namespace = Namespace::enter();
    let site = Site::new();
    let hash = HASH.replace("$10$", "$31$");
    let mut exporter = site.start(&format!("basic_auth_users:\n  ann: {hash}\n"));
    let mut login = connect(exporter.address());
    let header = authorization("ann", "a");
    write!(login, "GET / HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n").unwrap();
    let tasks = Path::new("/proc")
        .join(exporter.id().to_string())
        .join("task");
    wait::until_true("the check", || fs::read_dir(&tasks).unwrap().count() == 4);
    exporter.signal(Signal::TERM);
    assert!(exporter.wait().success());
}

#[test]
fn without_tls_a_file_that_cannot_be_used_is_answered_with_500() {
    let _namespace = Namespace::enter();
    let site = Site::new();
    let exporter = site.start(&users(&[("ann", "a")]));
    let get = || {
        let header = authorization("ann", "a");
        crate::common::http::get(exporter.address(), "/metrics", &[&header]).status
    };
    assert_eq!(get(), 200);
    site.write("basic_auth_users: 5");
    assert_eq!(get(), 500);
    // Open connections would stay without TLS.
    site.write(&format!("{TLS}{}", users(&[("ann", "a")])));
    assert_eq!(get(), 500);
    exporter.logged(&["tls_server_config was added or removed"]);
}

#[test]
fn an_empty_file_asks_for_nothing_and_headers_are_added_where_there_are_none() {
    let _namespace = Namespace::enter();
    let site = Site::new();
    let exporter = site.start("# nothing\n");
    let headers = || {
        let answer = exporter.get("/");
        assert_eq!(answer.status, 200);
        answer.headers
    };
    let own = headers();
    assert_eq!(own.get("x-frame-options"), None);
    site.write(
        "http_server_config:\n  http2: false\n  headers:\n    X-Frame-Options: deny\n    X-XSS-Protection: 1\n    \
         Strict-Transport-Security: max-age=3600\n    X-Content-Type-Options: ''\n    Content-Security-Policy: default-src *\n",
    );
    let with = headers();
    assert_eq!(with["x-frame-options"], "deny");
    assert_eq!(with["x-xss-protection"], "1");
    assert_eq!(with["strict-transport-security"], "max-age=3600");
    // The page's own policy is stricter.
    assert_eq!(
        with["content-security-policy"],
        own["content-security-policy"]
    );
    let elsewhere = exporter.get("/nothing");
    assert_eq!(elsewhere.status, 404);
    assert_eq!(elsewhere.header("x-frame-options"), Some("deny"));
}

/// Each config, and what is said of it.
fn refused(site: &Site, configs: &[(String, &str)]) {
    for (config, expected) in configs {
        let error = WebConfig::open(site.write(config).into()).err();
        let error = error.unwrap_or_else(|| panic!("is taken: {config}"));
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_tls_section_that_cannot_be_used_says_what_to_do() {
    refused(
        &Site::new(),
        &[
            (
                "tls_server_confg: {}".to_owned(),
                "unknown field `tls_server_confg`, expected",
            ),
            (
                "tls_server_config: {cert_filse: x}".to_owned(),
                "unknown field `cert_filse`",
            ),
            (
                "tls_server_config: {key_file: server.key}".to_owned(),
                "cert and cert_file are both missing",
            ),
            (
                "tls_server_config: {cert_file: '', key_file: server.key}".to_owned(),
                "cert and cert_file",
            ),
            (
                "tls_server_config: {cert_file: server.pem}".to_owned(),
                "key and key_file are both missing",
            ),
            (
                "tls_server_config: {min_version: TLS13}".to_owned(),
                "cert and cert_file",
            ),
            (
                "tls_server_config: {cert_file: nowhere, key_file: server.key}".to_owned(),
                "nowhere: No such file",
            ),
            (
                "tls_server_config: {cert_file: server.key, key_file: server.key}".to_owned(),
                "no PEM certificate",
            ),
            (
                "tls_server_config: {cert_file: server.pem, key_file: server.pem}".to_owned(),
                "key: the key is not a PEM key without passphrase",
            ),
            (
                TLS.replace("server.key", "ca.key"),
                "cert and key do not belong together",
            ),
            (
                format!("{TLS}  min_version: TLS111"),
                "unknown variant `TLS111`, expected",
            ),
            (format!("{TLS}  min_version: TLS11"), "use TLS12 or TLS13"),
            (
                format!("{TLS}  min_version: TLS13\n  max_version: TLS12"),
                "min_version is higher than",
            ),
            (
                format!("{TLS}  cipher_suites: [TLS_NULL]"),
                "'TLS_NULL' is not supported; the supported suites are TLS_AES_",
            ),
            (
                format!("{TLS}  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA]"),
                "is not supported",
            ),
            (
                format!("{TLS}  curve_preferences: [CurveP257]"),
                "unknown variant `CurveP257`",
            ),
            (
                format!("{TLS}  curve_preferences: [CurveP521]"),
                "add X25519",
            ),
        ],
    );
}

#[test]
fn unusable_settings_for_clients_have_a_remedy() {
    refused(
        &Site::new(),
        &[
            (
                format!("{TLS}  client_auth_type: x"),
                "'x' is not one of NoClientCert",
            ),
            (
                format!("{TLS}  client_auth_type: RequireAnyClientCert"),
                "use RequireAndVerifyClientCert",
            ),
            (
                format!("{TLS}  client_auth_type: RequireAndVerifyClientCert"),
                "requires client_ca_file",
            ),
            (
                format!("{TLS}  client_ca_file: ca.pem"),
                "client_auth_type is not",
            ),
            (
                format!("{TLS}{}", MUTUAL.replace("ca.pem", "/dev/null")),
                "/dev/null: it is not a regular file of at most 1 MiB",
            ),
            (
                format!("{TLS}{}", MUTUAL.replace("ca.pem", "nowhere")),
                "nowhere: No such file",
            ),
            (
                format!("{TLS}{MUTUAL}  client_allowed_sans: [a@b]"),
                "'a@b' is an e-mail address",
            ),
            (
                format!("{TLS}  client_allowed_sans: [a]"),
                "client_allowed_sans requires client_auth_type",
            ),
            (
                format!(
                    "{TLS}  client_auth_type: VerifyClientCertIfGiven\n  client_allowed_sans: [a]"
                ),
                "client_allowed_sans requires client_auth_type",
            ),
            (
                "tls_server_config: {cert_file: ca.key, key_file: server.key}".to_owned(),
                "cert: it contains no PEM certificate",
            ),
        ],
    );
}

#[test]
fn another_section_that_cannot_be_used_says_what_to_do() {
    let site = Site::new();
    refused(
        &site,
        &[
            (
                "basic_auth_users: {ann: secret}".to_owned(),
                "`htpasswd -nBC 10 ann`",
            ),
            (
                "basic_auth_users: {ann: $2y$10$ü}".to_owned(),
                "not a bcrypt hash",
            ),
            (
                format!(
                    "basic_auth_users: {{ann: {}}}",
                    HASH.replace("$10$", "$99$")
                ),
                "not a bcrypt hash",
            ),
            (
                "basic_auth_users: {[a]: b}".to_owned(),
                "not text or contains a colon",
            ),
            (
                format!("basic_auth_users: {{'a:b': {HASH}}}"),
                "not text or contains a colon",
            ),
            (
                format!("basic_auth_users: {{1.10: {HASH}}}"),
                "quote a name that looks like a number",
            ),
            ("basic_auth_users: {a: b, a: c}".to_owned(), "duplicate"),
            (
                "http_server_config: {headers: {Content-Type: x}}".to_owned(),
                "'Content-Type' is not one of",
            ),
            (
                "http_server_config: {headers: {X-Frame-Options: x}}".to_owned(),
                "is not deny or sameorigin",
            ),
            (
                "http_server_config: {headers: {X-XSS-Protection: \"a\\nb\"}}".to_owned(),
                "not valid text for a header",
            ),
            (
                "rate_limit: {interval: 1s, burst: 5}".to_owned(),
                "remove it",
            ),
        ],
    );
    let output = Exporter::command(&["--web.config.file", &site.write("rate_limit: 1")]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(
        line.starts_with("error: cannot use --web.config.file /tmp/"),
        "{line}"
    );
}

#[test]
fn what_other_exporters_take_is_taken() {
    let site = Site::new();
    let inline = |name: &str| {
        let text = fs::read_to_string(site.path(name)).unwrap();
        text.lines()
            .fold(String::new(), |all, line| format!("{all}    {line}\n"))
    };
    for config in [
        String::new(),
        "tls_server_config:\nbasic_auth_users:\nhttp_server_config:\nrate_limit:\n".to_owned(),
        format!("{TLS}  client_auth_type: VerifyClientCertIfGiven\n"),
        format!("{TLS}  client_auth_type: NoClientCert\n"),
        format!("{TLS}  prefer_server_cipher_suites: false\n"),
        format!("{TLS}  cipher_suites: [TLS_AES_128_GCM_SHA256]\n"),
        format!("{TLS}  curve_preferences: [CurveP256, CurveP384, CurveP521, X25519]\n"),
        format!("{TLS}  min_version: TLS12\n  max_version: TLS13\n"),
        format!("tls_server_config:\n  cert: |\n{}  key: |\n{}", inline("server.pem"), inline("server.key")),
        format!("{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca: |\n{}", inline("ca.pem")),
        format!("tls_server_config:\n  cert_file: {}\n  key_file: {}\n", site.path("server.pem"), site.path("server.key")),
        "http_server_config: {http2: true, headers: {X-Frame-Options: sameorigin, X-Content-Type-Options: nosniff}}".to_owned(),
        format!("basic_auth_users:\n  a: {HASH}\n"),
        format!("basic_auth_users:\n  a: {}\n", HASH.replace("$2y$", "$2a$")),
        format!("basic_auth_users:\n  a: {}\n", HASH.replace("$2y$", "$2b$")),
    ] {
        let opened = WebConfig::open(site.write(&config).into());
        assert_eq!(opened.err(), None, "{config}");
    }
}

#[test]
fn who_does_not_get_on_with_the_handshake_is_dropped() {
    let _namespace = Namespace::enter();
    let site = Site::new();
    let exporter = site.start(TLS);
    let start = Instant::now();
    let mut silent: Vec<_> = (0..64).map(|_| connect(exporter.address())).collect();
    // The beginning of a record, and nothing more.
    silent[0].write_all(b"\x16\x03\x01").unwrap();
    // All places are taken: the oldest gives way.
    assert_eq!(site.ask(&exporter, None, &[]), Ok(200));
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
    // The others keep theirs until the time for a handshake is over.
    let mut rest = Vec::new();
    if let Err(error) = silent[63].read_to_end(&mut rest) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    let elapsed = start.elapsed();
    let expected = Duration::from_secs(4)..Duration::from_secs(15);
    assert!(expected.contains(&elapsed), "{elapsed:?}");
}

#[test]
fn guesses_of_passwords_delay_no_known_user() {
    let _namespace = Namespace::enter_alone();
    let _listener = Listener::abstract_unix(b"name", 5);
    let site = Site::new();
    // A check takes most of a second.
    let hash = bcrypt::hash("a", 13).unwrap();
    let mut exporter = site.start(&format!("basic_auth_users:\n  ann: {hash}\n"));
    let server = exporter.address();
    let get =
        |user: &str| crate::common::http::get(server, "/metrics", &[&authorization(user, "a")]);
    assert_eq!(get("ann").status, 200);
    let mut guesses: Vec<_> = (0..20).map(|_| connect(server)).collect();
    for guess in &mut guesses {
        let header = authorization("eve", "a");
        write!(guess, "GET / HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n").unwrap();
    }
    // Those who go away leave no check behind that runs beside the next one.
    drop(guesses.split_off(10));
    let threads = || {
        fs::read_dir(
            Path::new("/proc")
                .join(exporter.id().to_string())
                .join("task"),
        )
        .unwrap()
        .count()
    };
    for _ in 0..50 {
        assert_eq!(get("ann").status, 200);
        // One serves, one samples, one logs, one checks.
        assert!(threads() <= 4, "{} threads", threads());
    }
    // No request waited for the ten that are checked one after the other.
    let last = guesses.last_mut().unwrap();
    last.set_nonblocking(true).unwrap();
    let unanswered = last.read(&mut [0]).unwrap_err();
    assert_eq!(unanswered.kind(), ErrorKind::WouldBlock);
    exporter.signal(Signal::TERM);
    let asked = Instant::now();
    assert!(exporter.wait().success());
    assert!(asked.elapsed() < Duration::from_secs(5));
}

#[test]
fn prometheus_scrapes_it_with_a_certificate_and_a_password() {
    let namespace = Namespace::enter();
    let site = Site::new();
    site.certify("prometheus", "subjectAltName=DNS:prometheus", Some("ca"));
    let config = format!(
        "{TLS}{MUTUAL}  client_allowed_sans: [prometheus]\n{}",
        users(&[("ann", "a")])
    );
    let exporter = site.start(&config);
    let scrape = |job: &str, password: &str, certificate: &str| {
        format!(
            "- job_name: {job}\n  scheme: https\n  scrape_interval: 1s\n  basic_auth: {{username: ann, password: {password}}}\n  \
             tls_config: {{ca_file: {0}/ca.pem, cert_file: {0}/{certificate}.pem, key_file: {0}/{certificate}.key}}\n  \
             static_configs: [{{targets: ['{1}']}}]\n",
            site.0.path().display(),
            exporter.address()
        )
    };
    let jobs = [
        scrape("good", "a", "prometheus"),
        scrape("password", "b", "prometheus"),
        scrape("name", "a", "server"),
    ];
    fs::write(
        site.path("prometheus.yml"),
        format!("scrape_configs:\n{}", jobs.concat()),
    )
    .unwrap();
    let mut prometheus = program::command("prometheus");
    prometheus.arg(format!("--config.file={}", site.path("prometheus.yml")));
    prometheus.arg(format!("--storage.tsdb.path={}", site.path("data")));
    prometheus.args(["--web.listen-address=127.0.0.1:9090", "--log.level=error"]);
    let _prometheus = Process::start(&mut prometheus);
    let value = |job: &str| {
        let mut curl = program::command("curl");
        curl.args(["--silent", "--noproxy", "*", "--get", "--data-urlencode"]);
        curl.arg(format!("query=up{{job=\"{job}\"}}"));
        let output = curl
            .arg("http://127.0.0.1:9090/api/v1/query")
            .output()
            .unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        let value = answer["data"]["result"][0]["value"][1].as_str()?;
        Some(value.to_owned())
    };
    let up = ["good", "password", "name"].map(|job| wait::until(job, || value(job)));
    assert_eq!(up, ["1", "0", "0"]);
    drop(namespace);
}

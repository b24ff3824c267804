//! The exporter below a path, behind a real nginx that keeps the path of a request or removes it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;

use crate::common::exporter::Exporter;
use crate::common::http;
use crate::common::namespace::Namespace;
use crate::common::program::{self, Process, directory};
use crate::common::socket::Listener;
use crate::common::wait;

const PROXY: &str = "127.0.0.1:8080";

/// nginx with a place for each exporter: at /kept the path of a request stays, at /removed it does not.
fn proxy(root: &std::path::Path, kept: SocketAddr, removed: SocketAddr) -> Process {
    let root_text = root.display();
    let text = format!(
        "daemon off; user root; worker_processes 1; pid {root_text}/nginx.pid; error_log {root_text}/error.log;
        events {{}}
        http {{
            access_log off; proxy_buffering off; proxy_http_version 1.1;
            client_body_temp_path {root_text}/1; proxy_temp_path {root_text}/2; fastcgi_temp_path {root_text}/3;
            uwsgi_temp_path {root_text}/4; scgi_temp_path {root_text}/5;
            server {{
                listen {PROXY};
                location /kept {{ proxy_pass http://{kept}; }}
                location /removed/ {{ proxy_pass http://{removed}/; }}
            }}
        }}"
    );
    let file = root.join("nginx.conf");
    std::fs::write(&file, text).unwrap();
    let mut nginx = program::command("nginx");
    nginx
        .arg("-c")
        .arg(file)
        .arg("-p")
        .arg(root)
        .args(["-e", "error.log"]);
    let nginx = Process::start(&mut nginx);
    wait::until_true("nginx", || std::net::TcpStream::connect(PROXY).is_ok());
    nginx
}

#[test]
fn behind_a_proxy_everything_is_below_its_path() {
    let _namespace = Namespace::enter();
    let _listener = Listener::abstract_unix(b"app", 5);
    let url = format!("--web.external-url=http://{PROXY}/kept/");
    let kept = Exporter::spawn_closed(Exporter::command(&[&url]));
    wait::until_true("the first round", || {
        kept.get("/kept/-/ready").status == 200
    });
    let removed = Exporter::start(&[
        &format!("--web.external-url=http://{PROXY}/removed"),
        "--web.route-prefix=/",
    ]);
    let directory = directory();
    let _nginx = proxy(directory.path(), kept.address(), removed.address());
    let proxy: SocketAddr = PROXY.parse().unwrap();
    let get = |path: &str| http::get(proxy, path, &[]);

    let moved = get("/kept");
    assert_eq!(
        (moved.status, moved.header("location")),
        (302, Some("/kept/"))
    );
    let moved = kept.get("/");
    assert_eq!(
        (moved.status, moved.header("location")),
        (302, Some("/kept/"))
    );
    for path in [
        "/metrics",
        "/-/healthy",
        "/-/page.js",
        "/keptmetrics",
        "/kept//metrics",
    ] {
        assert_eq!(kept.get(path).status, 404, "{path}");
    }
    for prefix in ["/kept", "/removed"] {
        let page = get(&format!("{prefix}/"));
        assert_eq!(page.status, 200);
        let links: Vec<&str> = page
            .text()
            .split(['"'])
            .zip(page.text().split(['"']).skip(1))
            .filter(|(before, _)| before.ends_with("href=") || before.ends_with("src="))
            .map(|(_, link)| link)
            .filter(|link| !link.starts_with("data:"))
            .collect();
        assert_eq!(
            links,
            ["-/page.css", "-/page.js", "metrics", "api/v1/listeners"]
        );
        let health = ["-/healthy", "-/ready", "-/saturated?listener=unix:@app"];
        for link in links.iter().chain(&health) {
            assert_eq!(
                get(&format!("{prefix}/{link}")).status,
                200,
                "{prefix}/{link}"
            );
        }
        let script = get(&format!("{prefix}/-/page.js"));
        for absolute in ["(\"/", "(`/", "('/"] {
            assert!(!script.text().contains(absolute), "{absolute}");
        }
        let mut stream = http::connect(proxy);
        let request = format!("GET {prefix}/-/stream HTTP/1.1\r\nHost: proxy\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut events = BufReader::new(stream).lines().map(Result::unwrap);
        assert!(events.any(|line| line.starts_with("data: {")));
    }
}

#[test]
fn below_the_root_of_a_proxy_the_redirect_leads_to_the_prefix() {
    let _namespace = Namespace::enter();
    let exporter = Exporter::spawn_closed(Exporter::command(&[
        "--web.external-url=https://queues.example",
        "--web.route-prefix=/queues",
    ]));
    for path in ["/", "/queues"] {
        let moved = exporter.get(path);
        assert_eq!(
            (moved.status, moved.header("location")),
            (302, Some("/queues/")),
            "{path}"
        );
    }
}

#[test]
fn protection_holds_below_a_prefix_and_for_the_way_to_it() {
    let _namespace = Namespace::enter();
    let directory = directory();
    let file = directory.path().join("web.yml");
    // The hash of "secret" at the lowest cost.
    let hash = bcrypt::hash("secret", 4).unwrap();
    std::fs::write(&file, format!("basic_auth_users: {{ admin: '{hash}' }}\n")).unwrap();
    let file = file.to_str().unwrap();
    let arguments = ["--web.route-prefix=queues", "--web.config.file", file];
    let exporter = Exporter::spawn_closed(Exporter::command(&arguments));
    for path in [
        "/",
        "/queues",
        "/queues/",
        "/queues/metrics",
        "/queues/-/healthy",
        "/metrics",
    ] {
        assert_eq!(exporter.get(path).status, 401, "{path}");
    }
    let key = "Authorization: Basic YWRtaW46c2VjcmV0";
    let with_key = |path: &str| http::get(exporter.address(), path, &[key]).status;
    assert_eq!(with_key("/queues/metrics"), 200);
    assert_eq!(with_key("/queues"), 302);
    assert_eq!(with_key("/metrics"), 404);
}

//! The memory limit of the manifests, with more listeners than discovery watches by default, eight clients at a time and eight live pages.

use std::fs;
use std::io::{self, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

use nix::sched::CloneFlags;

use crate::common::exposition::{Page, Queue};
use crate::common::socket::{Listener, connect_abstract};
use crate::common::{http, wait};
use crate::files::read;
use crate::podman::{exporter_image, podman};
use listen_queue_exporter::cli::PORT;

const NAME: &str = "memory";

/// A queue that is full among empty ones, unix and TCP: a thousand.
fn listeners() -> (Vec<Listener>, OwnedFd) {
    let name = |number| format!("app-{number}");
    let unix = (1..500).map(|number| Listener::abstract_unix(name(number).as_bytes(), 5));
    let tcp = (0..500).map(|number| Listener::tcp(&format!("127.0.0.1:{}", 11_000 + number), 5));
    let full = Listener::abstract_unix(b"full", 0);
    let all = [full].into_iter().chain(unix).chain(tcp).collect();
    (all, connect_abstract(b"full").unwrap())
}

fn live_page(server: SocketAddr) -> TcpStream {
    let mut page = http::connect(server);
    let request = format!("GET /-/stream HTTP/1.1\r\nHost: {server}\r\n\r\n");
    page.write_all(request.as_bytes()).unwrap();
    page
}

#[test]
fn a_thousand_listeners_and_a_thousand_scrapes_fit_into_the_memory_limit() {
    let manifest = read("deploy/kubernetes/sidecar/sidecar.yaml");
    let mut memory = manifest
        .lines()
        .filter_map(|line| line.trim().strip_prefix("memory: "));
    let limit = memory.next_back().unwrap().strip_suffix("Mi").unwrap();
    let (podman, _turn) = podman();
    let memory = format!("--memory={limit}m");
    let image = exporter_image();
    podman.run(&[
        "run",
        "--detach",
        "--name",
        NAME,
        "--network=none",
        "--read-only",
        "--cap-drop=all",
        &memory,
        &image,
        "--discover.limit",
        "1000",
    ]);
    let inspect = |what: &str| {
        podman
            .run(&["inspect", "--format", what, NAME])
            .trim()
            .to_owned()
    };
    let pid = inspect("{{.State.Pid}}");
    let namespace = fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
    nix::sched::setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
    // The kernel takes a small part of a page, as on a network.
    fs::write("/proc/sys/net/ipv4/tcp_wmem", "4096 16384 65536").unwrap();
    let (_listeners, _client) = listeners();
    let server = SocketAddr::from(([127, 0, 0, 1], PORT));
    wait::until_true("the exporter to listen", || {
        TcpStream::connect(server).is_ok()
    });
    let page = || Page::parse(http::get(server, "/metrics", &[]).text()).unwrap();
    let check = |page: &Page| {
        assert_eq!(page.listeners().len(), 1000);
        assert_eq!(page.queue("unix:@full"), Queue::of(1, 0));
        assert_eq!(page.queue("unix:@app-499"), Queue::of(0, 5));
        assert_eq!(
            page.of("listen_queue_full_episodes_total", "unix:@full"),
            Some(1.0)
        );
    };
    wait::until_true("all listeners", || page().listeners().len() == 1000);

    let pages: Vec<_> = (0..8).map(|_| live_page(server)).collect();
    std::thread::scope(|scope| {
        for mut page in &pages {
            scope.spawn(move || io::copy(&mut page, &mut io::sink()));
        }
        let scrape = || {
            for _ in 0..125 {
                // A client that the machine keeps from reading for two seconds gives way to the others, and asks again.
                let body = wait::until("a page", || http::try_get(server, "/metrics"));
                assert!(body.ends_with(b"\n"));
            }
        };
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(scrape)).collect();
        let failed = clients.into_iter().filter_map(|client| client.join().err());
        let failed = failed.count();
        // Until then they are read.
        let open = pages
            .iter()
            .filter(|page| page.shutdown(Shutdown::Both).is_ok());
        assert_eq!(
            (failed, open.count()),
            (0, 8),
            "{}",
            inspect("{{json .State}}")
        );
    });
    check(&page());

    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM:"));
    println!("{}", peak.unwrap());
    assert_eq!(
        inspect("{{.State.Running}} {{.State.OOMKilled}}"),
        "true false"
    );
    assert_eq!(
        inspect("{{.State.Pid}} {{.RestartCount}}"),
        format!("{pid} 0")
    );
    podman.run(&["rm", "--force", "--time", "0", NAME]);
}

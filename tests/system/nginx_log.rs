//! Refused connects, counted from what a real nginx says of them.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::common::exporter::Exporter;
use crate::common::exposition::{Page, Queue};
use crate::common::load;
use crate::common::namespace::Namespace;
use crate::common::program::{self, directory};
use crate::common::site::Site;
use crate::common::socket::{Listener, label};
use crate::common::wait;
use rustix::process::Signal;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const REFUSED: &str = "listen_queue_refused_connects_total";
const MESSAGES: &str = "listen_queue_nginx_log_messages_total";

fn refused(page: &Page, listener: &str) -> Option<f64> {
    page.labelled(REFUSED, &[("listener", listener), ("source", "nginx_log")])
}

fn messages(page: &Page, kind: &str) -> Option<f64> {
    page.labelled(MESSAGES, &[("kind", kind)])
}

/// Sends a burst at nginx, and holds its 502s and its log file against the counter.
fn count_a_burst(syslog: &str, nginx_server: &str, requests: u32, over: Duration) {
    count_a_burst_in(|_| {}, syslog, nginx_server, requests, over);
}

fn count_a_burst_in(
    prepare: impl Fn(&Namespace),
    syslog: &str,
    nginx_server: &str,
    requests: u32,
    over: Duration,
) {
    let namespace = Namespace::enter_alone();
    namespace.set_somaxconn(128);
    prepare(&namespace);
    let settings = format!("error_log syslog:server={nginx_server},nohostname error;");
    let site = Site::start(2, "sleep", &settings);
    count_at(&site, syslog, requests, over);
}

fn count_at(site: &Site, syslog: &str, requests: u32, over: Duration) {
    let listener = format!("gunicorn={}", label(&site.socket));
    let exporter = Exporter::start(&["--listener", &listener, "--nginx.syslog", syslog]);
    assert_eq!(refused(&exporter.fresh(), "gunicorn"), Some(0.0));
    let answers = load::run(site.server, requests, over);
    let bad = answers[&502];
    assert!(bad > 0);
    assert_eq!(site.refused_connects(), bad as usize);
    let all = exporter.when("every refusal to be counted", |page| {
        refused(page, "gunicorn") >= Some(f64::from(bad))
    });
    assert_eq!(refused(&all, "gunicorn"), Some(f64::from(bad)));
    assert_eq!(messages(&all, "refused"), Some(f64::from(bad)));
    assert_eq!(messages(&all, "malformed"), Some(0.0));
    let source = [("source", "nginx_log")];
    assert_eq!(all.labelled("listen_queue_source_up", &source), Some(1.0));
}

fn unix_server(root: &Path) -> (String, String) {
    let socket = root.join("log.socket");
    let address = format!("unix:{}", socket.display());
    (address.clone(), address)
}

#[test]
fn at_300_requests_a_second_each_502_is_counted_over_a_unix_socket() {
    let root = directory();
    let (syslog, server) = unix_server(root.path());
    count_a_burst(&syslog, &server, 450, Duration::from_millis(1500));
}

#[test]
fn at_5000_requests_a_second_each_502_is_counted_over_a_unix_socket() {
    let root = directory();
    let (syslog, server) = unix_server(root.path());
    // The kernel keeps 10 datagrams for a unix socket by default: nginx drops further ones.
    count_a_burst_in(
        |namespace| namespace.set("unix/max_dgram_qlen", 4096),
        &syslog,
        &server,
        5000,
        Duration::from_secs(1),
    );
}

#[test]
fn at_300_requests_a_second_each_502_is_counted_over_udp() {
    let (syslog, server) = ("udp:127.0.0.1:5140", "127.0.0.1:5140");
    count_a_burst(syslog, server, 450, Duration::from_millis(1500));
}

#[test]
fn at_5000_requests_a_second_each_502_is_counted_over_udp() {
    let (syslog, server) = ("udp:127.0.0.1:5140", "127.0.0.1:5140");
    count_a_burst(syslog, server, 5000, Duration::from_secs(1));
}

#[test]
fn a_newer_nginx_writes_lines_that_are_understood() {
    let place = format!("{ROOT}/target/nginx/trixie");
    program::run(Command::new(format!("{ROOT}/tests/fetch-nginx.sh")).args(["trixie", &place]));
    let nginx = Command::new(format!("{place}/nginx"));
    let namespace = Namespace::enter_alone();
    namespace.set_somaxconn(128);
    let root = directory();
    let (syslog, server) = unix_server(root.path());
    let settings = format!("error_log syslog:server={server} error;");
    let site = Site::start_with(nginx, 2, "sleep", &settings);
    count_at(&site, &syslog, 450, Duration::from_millis(1500));
}

#[test]
fn the_file_for_nginx_that_comes_along_works_and_keeps_the_log_file() {
    let shipped = std::fs::read_to_string(format!("{ROOT}/deploy/nginx/error-log.conf")).unwrap();
    let syslog = "unix:/run/listen-queue/nginx-log.socket";
    for (text, times) in [(syslog, 2), ("/var/log/nginx/error.log", 1)] {
        assert_eq!(shipped.matches(text).count(), times, "{text}");
    }
    let namespace = Namespace::enter_alone();
    namespace.set_somaxconn(128);
    let root = directory();
    let (syslog_here, _) = unix_server(root.path());
    let log = root.path().join("error.log");
    let included = root.path().join("error-log.conf");
    let here = shipped.replace(syslog, &syslog_here);
    let here = here.replace("/var/log/nginx/error.log", log.to_str().unwrap());
    std::fs::write(&included, here).unwrap();
    let site = Site::start(2, "sleep", &format!("include {};", included.display()));
    count_at(&site, &syslog_here, 450, Duration::from_millis(1500));
    let kept = std::fs::read_to_string(log).unwrap();
    let refused = kept.matches("failed (11: ").count();
    assert_eq!(refused, site.refused_connects());
}

#[test]
fn lines_that_nginx_cut_off_after_2_kb_count() {
    let namespace = Namespace::enter();
    namespace.set_somaxconn(1);
    let root = directory();
    let (syslog, server) = unix_server(root.path());
    let settings = format!("error_log syslog:server={server},nohostname error;");
    let site = Site::start(1, "gate", &settings);
    let listener = format!("gunicorn={}", label(&site.socket));
    let exporter = Exporter::start(&["--listener", &listener, "--nginx.syslog", &syslog]);
    // One is served and two wait.
    let get = |path: &str| {
        let mut stream = TcpStream::connect(site.server).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        stream
    };
    let _served = get("/");
    wait::until_true("the first to be served", || site.has_taken_a_request());
    let _waiting = [get("/"), get("/")];
    exporter.when("the queue to be full", |page| {
        page.queue("gunicorn") == Queue::of(2, 1)
    });
    let long = format!("/{}", "x".repeat(6000));
    let _refused: Vec<_> = (0..7).map(|_| get(&long)).collect();
    let page = exporter.when("all lines", |page| messages(page, "refused") == Some(7.0));
    assert_eq!(refused(&page, "gunicorn"), Some(7.0));
    assert_eq!(messages(&page, "malformed"), Some(0.0));
    let lines = site.refusals();
    assert_eq!(lines.len(), 7);
    for line in lines {
        assert!((1900..=2048).contains(&line.len()), "{}", line.len());
        assert!(!line.contains("upstream: "), "not cut off: {line}");
    }
    site.open_gate();
}

/// The status of a GET, whatever its path is.
fn get(server: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(server).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn what_a_client_writes_into_its_request_does_not_count() {
    let namespace = Namespace::enter();
    namespace.set_somaxconn(128);
    let root = directory();
    let (syslog, server) = unix_server(root.path());
    // Another facility, severity and tag, and the host's name: none of that may matter.
    let site = Site::start(
        1,
        "sleep",
        &format!(
            "error_log syslog:server={server},facility=user,severity=notice,tag=web_1 notice;"
        ),
    );
    let listener = format!("gunicorn={}", label(&site.socket));
    let exporter = Exporter::start(&["--listener", &listener, "--nginx.syslog", &syslog]);
    let socket = site.socket.display();
    let text = format!(
        "connect()%20to%20unix:{socket}%20failed%20(11:%20Resource%20temporarily%20unavailable)%20while%20connecting%20to%20upstream"
    );
    let attacks = [
        format!("/files/{text}"),
        format!(
            "/files/%0A<187>Nov%2023%2002:53:43%20nginx:%202026/11/23%2002:53:43%20[error]%201%231:%20*1%20{text}"
        ),
        format!("/files/{}{text}", "x".repeat(1700)),
        format!("/files/%FF%00{text}").replace("%00", "%01"),
    ];
    for attack in &attacks {
        let status = get(site.server, attack);
        assert!(status == "404" || status == "414", "{status}: {attack}");
    }
    let page = exporter.when("the lines to arrive", |page| {
        messages(page, "other") >= Some(4.0)
    });
    assert_eq!(refused(&page, "gunicorn"), Some(0.0));
    assert_eq!(messages(&page, "refused"), Some(0.0));
    assert_eq!(messages(&page, "malformed"), Some(0.0));
}

#[test]
fn an_exporter_that_was_killed_is_followed_by_one_that_counts_on_and_nginx_serves_all_the_while() {
    let namespace = Namespace::enter_alone();
    namespace.set_somaxconn(128);
    let root = directory();
    let (syslog, server) = unix_server(root.path());
    let settings = format!("error_log syslog:server={server},nohostname error;");
    let site = Site::start(2, "sleep", &settings);
    let listener = format!("gunicorn={}", label(&site.socket));
    let arguments = ["--listener", &listener, "--nginx.syslog", &syslog];
    let mut first = Exporter::start(&arguments);
    first.signal(Signal::KILL);
    first.wait();
    let away = load::run(site.server, 450, Duration::from_millis(1500));
    assert_eq!(away[&200] + away[&502], 450);
    let before = site.refused_connects();
    let second = Exporter::start(&arguments);
    let answers = load::run(site.server, 450, Duration::from_millis(1500));
    let bad = f64::from(answers[&502]);
    let page = second.when("every refusal to be counted", |page| {
        refused(page, "gunicorn") >= Some(bad)
    });
    assert_eq!(refused(&page, "gunicorn"), Some(bad));
    assert_eq!(site.refused_connects() - before, answers[&502] as usize);
}

#[test]
fn a_path_is_identified_by_the_file_it_leads_to_and_unknown_ones_are_bounded() {
    let _namespace = Namespace::enter();
    let root = directory();
    let (syslog, _) = unix_server(root.path());
    let socket = root.path().join("g.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let alias = root.path().join("alias.sock");
    std::os::unix::fs::symlink(&socket, &alias).unwrap();
    let listener = format!("gunicorn={}", label(&socket));
    let exporter = Exporter::start(&["--listener", &listener, "--nginx.syslog", &syslog]);
    let nginx = UnixDatagram::unbound().unwrap();
    let say = |path: &str| {
        let line = format!(
            "<187>Nov 23 02:53:43 nginx: 2026/11/23 02:53:43 [error] 1#1: *1 connect() to unix:{path} failed (11: Resource"
        );
        nginx
            .send_to(line.as_bytes(), root.path().join("log.socket"))
            .unwrap();
    };
    say(alias.to_str().unwrap());
    for number in 0..100 {
        say(&format!("/nobody/{number:03}\n\""));
    }
    nginx
        .send_to(b"\xff\x00", root.path().join("log.socket"))
        .unwrap();
    let page = exporter.when("all lines", |page| messages(page, "malformed") == Some(1.0));
    assert_eq!(messages(&page, "refused"), Some(101.0));
    assert_eq!(refused(&page, "gunicorn"), Some(1.0));
    assert_eq!(refused(&page, "unix:/nobody/030\\x0a\""), Some(1.0));
    // The alias takes one of the 32 places: it is none of the names that the exporter knew beforehand.
    assert_eq!(refused(&page, "other"), Some(100.0 - 31.0));
}

#[test]
fn a_socket_that_another_process_receives_on_is_refused_with_a_line_and_the_own_one_removed_at_the_end()
 {
    let _namespace = Namespace::enter();
    let root = directory();
    let (syslog, _) = unix_server(root.path());
    let mut exporter = Exporter::start(&["--nginx.syslog", &syslog, "--nginx.syslog-mode", "0620"]);
    let other = Exporter::command(&["--nginx.syslog", &syslog])
        .output()
        .unwrap();
    assert_eq!(other.status.code(), Some(1));
    let error = String::from_utf8(other.stderr).unwrap();
    assert!(
        error.contains("another process receives on this address"),
        "{error}"
    );
    exporter.signal(Signal::TERM);
    assert!(exporter.wait().success());
    assert!(!root.path().join("log.socket").exists());
}

#[test]
fn a_directory_in_which_the_socket_cannot_be_created_is_named_with_what_to_do() {
    let _namespace = Namespace::enter();
    let root = directory();
    let refused = |mut command: Command, directory: &Path| {
        let socket = directory.join("log.socket");
        command.args(["--nginx.syslog", &format!("unix:{}", socket.display())]);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let missing = root.path().join("missing");
    let line = refused(Exporter::command(&[]), &missing);
    let expected = format!("create the directory {}", missing.display());
    assert!(line.contains(&expected), "{line}");

    // It belongs to root.
    let closed = root.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    let line = refused(Exporter::command_as_nobody(root.path(), &[]), &closed);
    let expected = format!("search the directory {}", closed.display());
    assert!(line.contains(&expected), "{line}");
}

#[test]
fn all_spellings_of_a_path_are_one_listener_though_its_file_is_not_here() {
    let _namespace = Namespace::enter();
    let root = directory();
    let syslog = label(root.path().join("log.socket"));
    let directory = root.path().to_str().unwrap();
    let spelled = format!("{directory}//./app.sock");
    let listener = Listener::unix(&spelled, 5);
    // As in a container without the volume.
    std::fs::remove_file(&spelled).unwrap();
    let typed = format!("unix://{directory}/app.sock");
    let exporter = Exporter::start(&["--listener", &typed, "--nginx.syslog", &syslog]);
    assert_eq!(exporter.shows(&typed).queue(&typed), Queue::of(0, 5));
    let nginx = UnixDatagram::unbound().unwrap();
    for path in [
        format!("//{directory}/app.sock"),
        format!("{directory}/app.sock"),
    ] {
        let line = format!(
            "<187>Nov 23 02:53:43 nginx: 2026/11/23 02:53:43 [error] 1#1: *1 connect() to unix:{path} failed (11: Resource"
        );
        let to = root.path().join("log.socket");
        nginx.send_to(line.as_bytes(), to).unwrap();
    }
    let page = exporter.when("both refusals", |page| refused(page, &typed) == Some(2.0));
    assert_eq!(
        page.series
            .keys()
            .filter(|(name, _)| name == REFUSED)
            .count(),
        1
    );
    drop(listener);
}

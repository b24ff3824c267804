//! Clients of the exporter that mean no good, or know no better: however many there are, it goes on, and scrapes beside them are answered.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::exporter::Exporter;
use crate::common::exposition::{Page, Queue};
use crate::common::http::{connect, try_get};
use crate::common::namespace::Namespace;
use crate::common::socket::{Listener, connect_abstract};
use crate::common::wait;
use crate::web_config::{Site, TLS};

/// So many that a page is larger than what the kernel takes for a client that does not read.
const LISTENERS: u32 = 256;

/// A full queue among many empty ones.
fn listeners() -> Vec<impl Sized> {
    let others = (1..LISTENERS).map(|number| format!("other-{number}"));
    let others = others.map(|name| (Listener::abstract_unix(name.as_bytes(), 5), None));
    let full = Listener::abstract_unix(b"full", 0);
    let client = connect_abstract(b"full").unwrap();
    others.chain([(full, Some(client))]).collect()
}

/// Whether the page shows every listener, and the full one as it is.
fn check(page: &Page) {
    assert_eq!(page.listeners().len(), LISTENERS as usize);
    assert_eq!(page.queue("unix:@full"), Queue::of(1, 0));
    assert_eq!(
        page.of("listen_queue_full_episodes_total", "unix:@full"),
        Some(1.0)
    );
}

/// Sockets that the exporter has open.
fn sockets(exporter: &Exporter) -> usize {
    let files = std::fs::read_dir(format!("/proc/{}/fd", exporter.id())).unwrap();
    let links = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    let is_socket = |link: &std::path::PathBuf| link.to_string_lossy().starts_with("socket:");
    links.filter(is_socket).count()
}

/// A page, if its client did not give way.
fn whole_page(exporter: &Exporter) -> Option<Page> {
    let body = try_get(exporter.address(), "/metrics")?;
    Some(Page::parse(std::str::from_utf8(&body).unwrap()).unwrap())
}

#[test]
fn beside_a_thousand_clients_that_read_slowly_each_scrape_is_answered() {
    let namespace = Namespace::enter();
    // The kernel takes a small part of the page, as on a network.
    namespace.set("ipv4/tcp_wmem", "4096 16384 65536");
    let _listeners = listeners();
    let exporter = Exporter::start(&[]);
    check(&exporter.when("all listeners", |page| {
        page.listeners().len() == LISTENERS as usize
    }));
    let before = sockets(&exporter);
    let mut slow: Vec<TcpStream> = Vec::new();
    std::thread::scope(|scope| {
        let crowd = scope.spawn(|| {
            (0..1000)
                .map(|_| {
                    let mut client = connect(exporter.address());
                    rustix::net::sockopt::set_socket_recv_buffer_size(&client, 2304).unwrap();
                    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
                    client.write_all(request).unwrap();
                    client.set_nonblocking(true).unwrap();
                    client
                })
                .collect()
        });
        // The machine may have the reader of these wait for so long that it gives way as well.
        while !crowd.is_finished() {
            whole_page(&exporter).iter().for_each(check);
        }
        slow = crowd.join().unwrap();
    });
    // All are there, and each reads a little now and then. Those with a place would keep it for ten seconds, and the others come after them.
    let start = Instant::now();
    for _ in 0..10 {
        for client in &mut slow {
            let _ = client.read(&mut [0; 100]);
        }
        check(&wait::until("a whole page", || whole_page(&exporter)));
    }
    println!("ten scrapes took {:?}", start.elapsed());
    drop(slow);
    wait::until_true("the crowd to be forgotten", || sockets(&exporter) <= before);
    check(&exporter.fresh());
}

#[test]
fn a_request_that_has_arrived_keeps_its_connection_though_it_was_not_read_yet() {
    let _namespace = Namespace::enter();
    let exporter = Exporter::start(&[]);
    let request = b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n";
    let read = |stream: &mut TcpStream| {
        let mut answer = [0; 1024];
        let length = stream.read(&mut answer).unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 200 OK"));
    };
    let mut kept = connect(exporter.address());
    kept.write_all(request).unwrap();
    read(&mut kept);
    std::thread::sleep(Duration::from_millis(100));
    exporter.signal(Signal::STOP);
    let mut new = connect(exporter.address());
    new.write_all(request).unwrap();
    let idle: Vec<_> = (0..100).map(|_| connect(exporter.address())).collect();
    kept.write_all(request).unwrap();
    exporter.signal(Signal::CONT);
    read(&mut kept);
    read(&mut new);
    drop(idle);
}

/// Stops a crowd at the end of the test, also if it fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Keeps this many connections open until told to stop, each with the request sent, and opens those that were closed again.
fn crowd(exporter: &Exporter, count: usize, request: &[u8], stop: &AtomicBool) {
    let open = || {
        let mut stream = TcpStream::connect(exporter.address()).ok()?;
        // It may have to go at once.
        stream.write_all(request).ok()?;
        stream.set_nonblocking(true).ok()?;
        Some(stream)
    };
    let is_closed = |stream: &mut TcpStream| match stream.read(&mut [0; 4096]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    };
    let mut clients: Vec<Option<TcpStream>> = (0..count).map(|_| None).collect();
    while !stop.load(Ordering::Relaxed) {
        for client in &mut clients {
            if client.as_mut().is_none_or(is_closed) {
                *client = open();
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn beside_a_thousand_clients_that_guess_passwords_each_scrape_is_answered_within_a_second() {
    let _namespace = Namespace::enter();
    let site = Site::new();
    let exporter = site.start(&format!(
        "basic_auth_users:\n  ann: {COST_10}\n  bob: {}\n",
        bcrypt::hash("b", 4).unwrap()
    ));
    let bob = crate::web_config::authorization("bob", "b");
    let scrape = || {
        let start = Instant::now();
        let answer = crate::common::http::get(exporter.address(), "/metrics", &[&bob]);
        assert_eq!(answer.status, 200);
        start.elapsed()
    };
    scrape();
    let guess = crate::web_config::authorization("ann", "guess");
    let guess = format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{guess}\r\n\r\n");
    let stop = AtomicBool::new(false);
    let mut times: Vec<Duration> = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| crowd(&exporter, 250, guess.as_bytes(), &stop));
        }
        let _stop = Stop(&stop);
        std::thread::sleep(Duration::from_secs(2));
        (0..10).map(|_| scrape()).collect()
    });
    times.sort_unstable();
    println!("scrapes took {times:?}");
    // Linux sends a SYN that found the exporter's queue full again after a second.
    assert!(times[7] < Duration::from_secs(1), "{times:?}");
    assert!(times[9] < Duration::from_secs(5), "{times:?}");
}

#[test]
fn garbage_and_plain_text_on_the_tls_port_are_no_answer_and_leave_nothing_behind() {
    let _namespace = Namespace::enter();
    let _listeners = listeners();
    let site = Site::new();
    let exporter = site.start(TLS);
    assert_eq!(site.ask(&exporter, None, &[]), Ok(200));
    let before = sockets(&exporter);
    let random = &mut fastrand::Rng::with_seed(13);
    let hello = client_hello();
    for number in 0..1000 {
        let mut sent = match number % 4 {
            0 => b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            1 => (0..random.usize(1..2000)).map(|_| random.u8(..)).collect(),
            // A record that announces more than it may have.
            2 => [&[0x16, 3, 1, 0xff, 0xff][..], &[0; 100]].concat(),
            _ => hello.clone(),
        };
        if number % 4 == 3 {
            // A handshake that begins well, with some bytes changed and its end missing.
            for _ in 0..random.usize(1..8) {
                let place = random.usize(..sent.len());
                sent[place] = random.u8(..);
            }
            sent.truncate(random.usize(1..=sent.len()));
        }
        let mut client = connect(exporter.address());
        // It may have closed already.
        let _ = client.write_all(&sent);
        let _ = client.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer);
        assert!(
            !text.contains("HTTP/") && !text.contains("listen_queue"),
            "{text}"
        );
    }
    assert_eq!(site.ask(&exporter, None, &[]), Ok(200));
    wait::until_true("all sockets to be closed", || sockets(&exporter) <= before);
    let log = exporter.log();
    let lines = log.lines().filter(|line| !line.contains("listener found"));
    assert!(lines.count() < 10, "one client is not a line: {log}");
}

/// What openssl sends first.
fn client_hello() -> Vec<u8> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut openssl = crate::common::program::command("openssl");
    openssl.args([
        "s_client",
        "-connect",
        &listener.local_addr().unwrap().to_string(),
    ]);
    openssl
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let _client = crate::common::program::Process::start(&mut openssl);
    let (mut server, _) = listener.accept().unwrap();
    let mut hello = vec![0; 4096];
    let length = server.read(&mut hello).unwrap();
    hello.truncate(length);
    assert_eq!(hello[0], 0x16, "a handshake");
    hello
}

/// The hash of a password that no user has: a check takes a second and more.
const COST_14: &str = "$2y$14$abcdefghijklmnopqrstuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuu";
/// Another, of which a check takes fifty milliseconds and more.
const COST_10: &str = "$2y$10$abcdefghijklmnopqrstuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuu";
const SAMPLES: &str = "listen_queue_samples_total";
const LATE: &str = "listen_queue_samples_late_total";

/// How nice the threads are, (see nice(2)): that which uses a processor, if one does, and the sampler.
fn niceness(exporter: &Exporter) -> Option<(i64, i64)> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", exporter.id())).unwrap();
    let mut busy = None;
    let mut sampler = 0;
    for thread in threads {
        let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
        let (name, rest) = stat.rsplit_once(") ").unwrap();
        let fields: Vec<_> = rest.split(' ').collect();
        let (ticks, nice): (u64, i64) = (fields[11].parse().unwrap(), fields[16].parse().unwrap());
        if name.ends_with("(sampler") {
            sampler = nice;
        } else if ticks > 20 {
            busy = Some(nice);
        }
    }
    Some((busy?, sampler))
}

#[test]
fn while_passwords_are_guessed_at_cost_14_the_sampler_keeps_its_pace() {
    let _namespace = Namespace::enter_alone();
    // One processor for both: what checks passwords is put aside for the sampler.
    let mut processors = nix::sched::CpuSet::new();
    processors.set(0).unwrap();
    let this = nix::unistd::Pid::from_raw(0);
    nix::sched::sched_setaffinity(this, &processors).unwrap();
    let _listener = Listener::abstract_unix(b"app", 5);
    let site = Site::new();
    let config = format!(
        "basic_auth_users:\n  ann: {COST_14}\n  bob: {}\n",
        bcrypt::hash("b", 4).unwrap()
    );
    let exporter = site.start(&config);
    let bob = crate::web_config::authorization("bob", "b");
    let scrape = || {
        let answer = crate::common::http::get(exporter.address(), "/metrics", &[&bob]);
        Page::parse(answer.text()).unwrap()
    };
    let grown = |first: &Page, last: &Page| {
        [SAMPLES, LATE].map(|name| last.get(name).unwrap() - first.get(name).unwrap())
    };
    let window = || {
        let first = scrape();
        std::thread::sleep(Duration::from_secs(3));
        grown(&first, &scrape())
    };
    let [_, late_at_rest] = window();
    let mut guess = connect(exporter.address());
    let header = crate::web_config::authorization("ann", "guess");
    write!(
        guess,
        "GET /metrics HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n"
    )
    .unwrap();
    let checking = wait::until("a check", || niceness(&exporter));
    let [rounds, late] = window();
    println!(
        "{late} of {rounds} rounds were late, at rest {late_at_rest}; niceness of the check and of the sampler: {checking:?}"
    );
    assert!(rounds > 100.0, "{rounds} rounds in 3 s");
    // What the machine lets wait at rest it lets wait here as well.
    assert!(late <= 1.0 + 2.0 * late_at_rest + rounds * 0.01);
    let (check, sampler) = checking;
    assert_eq!(check, (sampler + 5).min(19));
}

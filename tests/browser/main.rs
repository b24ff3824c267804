//! The live page in a real browser, kept up to date by a real exporter.
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    dead_code,
    reason = "a test that cannot go on ends here; not all of what the tests share is used"
)]

#[path = "../common/mod.rs"]
mod common;

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use common::exporter::Exporter;
use common::http::connect;
use common::namespace::Namespace;
use common::socket::{Listener, connect_abstract};
use common::wait;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const CHROMIUM: &str = "/usr/bin/chromium";
/// The browser listens, too.
const EXCEPT_CHROMIUM: &[&str] = &["--discover.exclude", "hromium"];

struct Browser {
    driver: Child,
    commands: Option<ChildStdin>,
    answers: RefCell<Lines<BufReader<ChildStdout>>>,
}

struct Page<'a> {
    browser: &'a Browser,
    name: &'static str,
}

impl Browser {
    fn start() -> Self {
        let tools = format!("{ROOT}/target/tools/npm");
        for needed in [CHROMIUM, &format!("{tools}/node_modules/playwright-core")] {
            assert!(
                Path::new(needed).exists(),
                "{needed} is missing; run: tests/install.sh browser"
            );
        }
        let mut driver = Command::new("node")
            .args([&format!("{ROOT}/tests/browser/drive.mjs"), &tools, CHROMIUM])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node is missing; run: tests/install.sh browser");
        Self {
            commands: driver.stdin.take(),
            answers: RefCell::new(BufReader::new(driver.stdout.take().unwrap()).lines()),
            driver,
        }
    }

    fn ask(&self, command: &Value) -> Value {
        let mut commands = self.commands.as_ref().unwrap();
        writeln!(commands, "{command}").unwrap();
        let answer = self.answers.borrow_mut().next().expect("the driver lives");
        let answer: Value = serde_json::from_str(&answer.unwrap()).unwrap();
        assert_eq!(answer.get("error"), None, "{command}");
        answer["value"].clone()
    }

    fn open(&self, name: &'static str, exporter: &Exporter, script: bool) -> Page<'_> {
        let url = format!("http://{}/", exporter.address());
        self.ask(&json!({"open": url, "page": name, "script": script}));
        Page {
            browser: self,
            name,
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // At the end of its input the driver closes the browser and ends.
        drop(self.commands.take());
        let _ = self.driver.wait();
    }
}

impl Page<'_> {
    fn eval(&self, expression: &str) -> Value {
        self.browser
            .ask(&json!({"eval": expression, "page": self.name}))
    }

    fn when(&self, expression: &str, value: &Value) {
        let what = format!("{expression} to be {value} on {}", self.name);
        wait::until_true(&what, || self.eval(expression) == *value);
    }

    fn seen(&self) -> Value {
        self.browser.ask(&json!({"seen": true, "page": self.name}))
    }
}

fn row(name: &str, cell: &str) -> String {
    let name = Value::from(name);
    format!(
        "[...document.querySelectorAll('tbody tr')].find(row => row.dataset.name === {name}).querySelector('{cell}')"
    )
}

/// Pixels of the plot that are red.
fn red(name: &str) -> String {
    let canvas = row(name, "canvas");
    format!(
        "(() => {{ const canvas = {canvas}; \
         const {{ data }} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height); let red = 0; \
         for (let i = 0; i < data.length; i += 4) red += data[i] === 221 && data[i + 1] === 0 && data[i + 3] === 255; return red > 0; }})()"
    )
}

#[test]
fn the_page_follows_a_burst_turns_red_while_full_and_shows_hostile_names_as_text() {
    let _namespace = Namespace::enter();
    let listener = Listener::abstract_unix(b"name", 128);
    let hostile = r"<img src=x onerror=alert(1)>&quot;'";
    let _hostile = Listener::abstract_unix(hostile.as_bytes(), 5);
    let exporter = Exporter::start(EXCEPT_CHROMIUM);
    let browser = Browser::start();
    let page = browser.open("live", &exporter, true);
    let name = "unix:@name";
    let (depth, text) = (
        row(name, "meter") + ".value",
        row(name, "span") + ".textContent",
    );

    page.when(
        "document.getElementById('connection').textContent",
        &json!("Live."),
    );
    page.when(&text, &json!("0 of 129"));
    assert_eq!(page.eval(&red(name)), false);

    let mut clients: Vec<_> = (0..60)
        .map(|_| connect_abstract(b"name").unwrap())
        .collect();
    page.when(&depth, &json!(60));
    assert_eq!(page.eval("document.body.classList.contains('full')"), false);

    clients.extend((60..129).map(|_| connect_abstract(b"name").unwrap()));
    page.when("document.body.classList.contains('full')", &json!(true));
    page.when(&text, &json!("129 of 129"));
    assert_eq!(page.eval("document.title"), "FULL: unix:@name");
    assert_eq!(
        page.eval("document.getElementById('alarm').innerText"),
        "FULL: unix:@name"
    );
    let colour = "getComputedStyle(document.getElementById('alarm')).backgroundColor";
    assert_eq!(page.eval(colour), "rgb(221, 0, 0)");
    page.when(&red(name), &json!(true));

    drop((listener.accept_all(), clients));
    page.when("document.body.classList.contains('full')", &json!(false));
    assert_eq!(page.eval("document.getElementById('alarm').hidden"), true);
    // What happened stays in the plot.
    assert_eq!(page.eval(&red(name)), true);

    let label = format!("unix:@{hostile}");
    assert_eq!(page.eval(&(row(&label, "th") + ".textContent")), *label);
    assert_eq!(page.eval("document.querySelectorAll('img').length"), 0);

    // A listener that comes gets a row, one that goes loses it.
    let late = Listener::abstract_unix(b"late<b>", 5);
    let rows = "[...document.querySelectorAll('tbody tr')].map(row => row.dataset.name)";
    page.when(rows, &json!([&label, "unix:@late<b>", name]));
    drop(late);
    page.when(rows, &json!([&label, name]));

    // A keyboard and a screen reader find their way.
    browser.ask(&json!({"key": "Tab", "page": "live"}));
    assert_eq!(page.eval("document.activeElement.textContent"), "Metrics");
    assert_eq!(
        page.eval("[...document.querySelectorAll('th')].every(th => th.scope)"),
        true
    );
    assert_eq!(page.eval("document.documentElement.lang"), "en");
    let plot = page.eval(&(row(name, "canvas") + ".getAttribute('aria-label')"));
    assert_eq!(
        plot,
        "depth in the last five minutes: highest 129, full at 129"
    );

    let seen = page.seen();
    assert_eq!(seen["errors"], json!([]));
    let origin = format!("http://{}/", exporter.address());
    let requests = seen["requests"].as_array().unwrap();
    assert!(requests.len() >= 4);
    assert!(
        requests
            .iter()
            .all(|url| url.as_str().unwrap().starts_with(&origin)),
        "{seen}"
    );
}

#[test]
fn without_javascript_it_is_a_table_of_the_moment() {
    let _namespace = Namespace::enter();
    let _listener = Listener::abstract_unix(b"name", 3);
    let _clients: Vec<_> = (0..4).map(|_| connect_abstract(b"name").unwrap()).collect();
    let exporter = Exporter::start(&["--listener", "g=unix:@name", "--listener", "tcp::1"]);
    let browser = Browser::start();
    let page = browser.open("plain", &exporter, false);
    assert_eq!(
        page.eval("document.getElementById('alarm').innerText"),
        "FULL: g"
    );
    assert_eq!(page.eval(&(row("g", "span") + ".innerText")), "4 of 4");
    assert_eq!(page.eval(&(row("g", "meter") + ".value")), 4);
    assert_eq!(
        page.eval(&(row("tcp::1", "span") + ".innerText")),
        "no socket is listening at this address"
    );
    // The plot needs the script.
    assert_eq!(page.eval(&(row("g", "td.live") + ".offsetWidth")), 0);
    assert_eq!(page.seen()["errors"], json!([]));
}

#[test]
fn a_ninth_page_asks_anew_each_second() {
    let _namespace = Namespace::enter();
    let _listener = Listener::abstract_unix(b"name", 128);
    let exporter = Exporter::start(EXCEPT_CHROMIUM);
    let streams: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = connect(exporter.address());
            stream
                .write_all(b"GET /-/stream HTTP/1.1\r\nHost: exporter\r\n\r\n")
                .unwrap();
            let mut status = String::new();
            BufReader::new(stream.try_clone().unwrap())
                .read_line(&mut status)
                .unwrap();
            assert!(status.contains(" 200 "), "{status}");
            stream
        })
        .collect();
    let browser = Browser::start();
    let page = browser.open("ninth", &exporter, true);
    let said =
        "document.getElementById('connection').textContent.startsWith('Updated once a second')";
    page.when(said, &json!(true));
    let _clients: Vec<_> = (0..129)
        .map(|_| connect_abstract(b"name").unwrap())
        .collect();
    page.when(&(row("unix:@name", "meter") + ".value"), &json!(129));
    page.when(&red("unix:@name"), &json!(true));
    drop(streams);
}

#[test]
fn a_hundred_listeners_have_a_row_each_that_moves() {
    let _namespace = Namespace::enter();
    let names: Vec<String> = (0..100).map(|number| format!("name{number:03}")).collect();
    let _listeners: Vec<_> = names
        .iter()
        .map(|n| Listener::abstract_unix(n.as_bytes(), 5))
        .collect();
    let exporter = Exporter::start(EXCEPT_CHROMIUM);
    let browser = Browser::start();
    let page = browser.open("many", &exporter, true);
    let _clients: Vec<_> = names
        .iter()
        .map(|n| connect_abstract(n.as_bytes()).unwrap())
        .collect();
    let moved =
        "[...document.querySelectorAll('tbody meter')].filter(meter => meter.value === 1).length";
    page.when(moved, &json!(100));
    assert_eq!(page.seen()["errors"], json!([]));
}

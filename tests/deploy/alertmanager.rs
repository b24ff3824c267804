//! The routes and inhibition for Alertmanager: two hundred pods that are full at once are one notification.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::namespace::Namespace;
use crate::common::program::{self, Process, directory};
use crate::common::{http, wait};
use crate::files::{ROOT, read};

const CONFIGURATION: &str = "deploy/prometheus/alertmanager.yaml";
const ADDRESS: &str = "127.0.0.1:9093";

/// The alerts of each notification that came.
type Notifications = Arc<Mutex<Vec<Vec<Value>>>>;

/// Takes notifications on a free port.
fn receiver() -> (SocketAddr, Notifications) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let notifications = Notifications::default();
    let came = Arc::clone(&notifications);
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut length = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                let line = line.trim().to_ascii_lowercase();
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line.is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let notification: Value = serde_json::from_slice(&body).unwrap();
            let alerts = notification["alerts"].as_array().unwrap().clone();
            came.lock().unwrap().push(alerts);
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            stream.write_all(answer).unwrap();
        }
    });
    (address, notifications)
}

fn alert(name: &str, severity: &str, more: &Value) -> Value {
    let mut labels = json!({
        "alertname": name, "severity": severity, "namespace": "shop", "workload": "web", "job": "j", "listener": "gunicorn",
    });
    labels
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    json!({"labels": labels})
}

#[test]
fn amtool_accepts_the_configuration() {
    program::run(
        program::command("amtool")
            .arg("check-config")
            .arg(format!("{ROOT}/{CONFIGURATION}")),
    );
}

#[test]
fn two_hundred_pods_that_are_full_at_once_are_one_notification() {
    let _namespace = Namespace::enter();
    let (webhook, notifications) = receiver();
    let directory = directory();
    let receivers =
        format!("    webhook_configs: [{{url: 'http://{webhook}/', send_resolved: false}}]\n");
    let configuration =
        read(CONFIGURATION).replace("group_wait: 30s", "group_wait: 3s") + &receivers;
    let file = directory.path().join("alertmanager.yaml");
    fs::write(&file, configuration).unwrap();
    let mut command = program::command("prometheus-alertmanager");
    command.arg(format!("--config.file={}", file.display()));
    command.arg(format!("--storage.path={}", directory.path().display()));
    command.args([
        "--cluster.listen-address=",
        &format!("--web.listen-address={ADDRESS}"),
    ]);
    let _alertmanager = Process::start(command.stderr(std::process::Stdio::null()));
    let server: SocketAddr = ADDRESS.parse().unwrap();
    wait::until_true("Alertmanager", || {
        std::net::TcpStream::connect(server).is_ok()
            && http::get(server, "/-/ready", &[]).status == 200
    });
    let post = |alerts: &[Value]| {
        let body = Value::from(alerts).to_string();
        let length = format!("Content-Length: {}", body.len());
        let headers = ["Content-Type: application/json", length.as_str()];
        let answer = http::request(server, "POST /api/v2/alerts HTTP/1.1", &headers, &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    let pods: Vec<Value> = (0..200)
        .map(|pod| json!({"pod": format!("web-{pod}"), "instance": format!("10.0.0.{pod}:10128")}))
        .collect();
    let mut alerts = vec![alert("ListenQueueManyPodsRefuse", "critical", &json!({}))];
    for pod in &pods {
        alerts.push(alert("ListenQueueConnectionsRefused", "critical", pod));
        alerts.push(alert("ListenQueueNearlyFull", "warning", pod));
    }
    // One pod of another workload, with what follows from it.
    let other = json!({"workload": "api", "pod": "api-0", "instance": "10.0.1.1:10128"});
    alerts.push(alert("ListenQueueConnectionsRefused", "critical", &other));
    alerts.push(alert("ListenQueueSlow", "warning", &other));
    post(&alerts);
    // Another Prometheus sees the same, and has a label of its own.
    for alert in &mut alerts {
        alert["labels"]["prometheus_replica"] = json!("1");
    }
    post(&alerts);
    wait::until_true("two notifications", || {
        notifications.lock().unwrap().len() >= 2
    });
    // What is grouped with others would have come by now.
    thread::sleep(Duration::from_secs(5));
    let mut sent: Vec<(usize, String)> = notifications
        .lock()
        .unwrap()
        .iter()
        .map(|alerts| {
            (
                alerts.len(),
                alerts[0]["labels"]["alertname"]
                    .as_str()
                    .unwrap()
                    .to_owned(),
            )
        })
        .collect();
    sent.sort();
    let expected = ["ListenQueueConnectionsRefused", "ListenQueueManyPodsRefuse"];
    // An alert of each Prometheus, in one notification.
    assert_eq!(sent, expected.map(|name| (2, name.to_owned())));
}

//! The scrape jobs: which of a cluster's targets they take, and under which labels.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::common::program;
use crate::files::{read, yaml};

type Labels = BTreeMap<String, String>;

const SCRAPE: &str = "pod_labelpresent_listen_queue_exporter_scrape";

/// A port of a container of a pod, as in the service discovery of Kubernetes: names without `__meta_kubernetes_`.
fn port(address: &str, more: &[(&str, &str)]) -> Value {
    let always = [
        ("namespace", "shop"),
        ("pod_phase", "Running"),
        ("pod_node_name", "n1"),
    ];
    let labels: serde_json::Map<String, Value> = always
        .iter()
        .chain(more)
        .map(|(name, value)| (format!("__meta_kubernetes_{name}"), json!(value)))
        .collect();
    json!({"targets": [address], "labels": labels})
}

fn cluster() -> Value {
    let web = |address, name, more: &[(&str, &str)]| {
        let own = [
            (SCRAPE, "true"),
            ("pod_container_port_name", name),
            ("pod_name", "web-app-7d4b9-x2x"),
            ("pod_controller_kind", "ReplicaSet"),
            ("pod_controller_name", "web-app-7d4b9"),
        ];
        port(address, &[&own, more].concat())
    };
    let init = [("pod_container_init", "true")];
    let by_port = |port| {
        [
            ("pod_annotation_prometheus_io_scrape", "true"),
            ("pod_annotation_prometheus_io_port", port),
        ]
    };
    let annotated = |address, pod, ip| {
        let pod = [("pod_name", pod), ("pod_ip", ip)];
        let controller = [
            ("pod_controller_kind", "StatefulSet"),
            ("pod_controller_name", "old-db"),
        ];
        port(address, &[pod, controller, by_port("10128")].concat())
    };
    let node = |name| {
        [
            ("pod_label_app_kubernetes_io_name", "listen-queue-exporter"),
            ("pod_label_app_kubernetes_io_component", "node"),
            ("pod_container_port_name", name),
            ("pod_name", "listen-queue-exporter-h7k"),
        ]
    };
    json!([
        web("10.0.0.1:10128", "lq-metrics", &init),
        web("10.0.0.1:8080", "http", &[]),
        // Annotated for a port of the application, and for the exporter's: one scrape of it.
        web("10.0.0.2:10128", "lq-metrics", &by_port("8080")),
        web("10.0.0.3:10128", "lq-metrics", &by_port("10128")),
        web("10.0.0.4:10128", "lq-metrics", &[("pod_phase", "Failed")]),
        annotated("10.0.1.1:5432", "old-db-0", "10.0.1.1"),
        annotated("10.0.1.1:9000", "old-db-0", "10.0.1.1"),
        annotated("[fd00::1]:5432", "old-db-1", "fd00::1"),
        port("10.0.1.2:8080", &by_port("8080")),
        port("10.0.2.1:10128", &node("lq-metrics")),
        port("10.0.2.1:7777", &node("other")),
        port("10.0.3.1:10128", &[("pod_container_port_name", "metrics")]),
    ])
}

/// The labels of the targets that are left of the cluster after each of these jobs' relabelling.
fn taken(jobs: &[Value]) -> Vec<BTreeSet<Labels>> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    fs::write(path.join("cluster.json"), cluster().to_string()).unwrap();
    let jobs: Vec<Value> = jobs
        .iter()
        .map(|job| {
            let mut job = job.clone();
            // Debian's Prometheus is built without Kubernetes.
            let job = job.as_object_mut().unwrap();
            let role = job.remove("kubernetes_sd_configs");
            assert_eq!(role, Some(json!([{"role": "pod"}])));
            job.insert(
                "file_sd_configs".to_owned(),
                json!([{"files": ["cluster.json"]}]),
            );
            Value::Object(job.clone())
        })
        .collect();
    let config = path.join("prometheus.yaml");
    fs::write(&config, json!({"scrape_configs": jobs}).to_string()).unwrap();
    program::run(
        program::command("promtool")
            .args(["check", "config"])
            .arg(&config),
    );
    let asked: Vec<_> = jobs
        .iter()
        .map(|job| {
            let mut promtool = program::command("promtool");
            // It waits as long for more targets.
            promtool.args(["check", "service-discovery", "--timeout=5s"]);
            promtool.arg(&config).arg(job["job_name"].as_str().unwrap());
            promtool.stdout(Stdio::piped()).stderr(Stdio::null());
            promtool.spawn().unwrap()
        })
        .collect();
    asked
        .into_iter()
        .map(|promtool| {
            let output = promtool.wait_with_output().unwrap();
            let targets: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
            targets.iter().filter_map(labels_of).collect()
        })
        .collect()
}

/// Labels of a target that series get, and its address; nothing if it is dropped.
fn labels_of(target: &Value) -> Option<Labels> {
    let labels = target["labels"].as_object().filter(|l| !l.is_empty())?;
    let shown = labels
        .iter()
        .filter(|(name, _)| !name.starts_with("__") && *name != "job");
    let shown = shown.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()));
    Some(shown.collect())
}

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
    let pairs = pairs.into_iter();
    pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}

/// A job as the operator makes it of a PodMonitor that selects by one label.
fn of_pod_monitor() -> Value {
    let monitor = &yaml(&read("deploy/prometheus/podmonitor.yaml"))[0]["spec"];
    let endpoint = &monitor["podMetricsEndpoints"][0];
    let mut relabelings = vec![
        json!({"source_labels": [format!("__meta_kubernetes_{SCRAPE}")], "regex": "true", "action": "keep"}),
        json!({"source_labels": ["__meta_kubernetes_pod_container_port_name"], "regex": endpoint["port"], "action": "keep"}),
        json!({"source_labels": ["__meta_kubernetes_pod_phase"], "regex": "(Failed|Succeeded)", "action": "drop"}),
        json!({"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"}),
        json!({"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"}),
    ];
    for relabeling in endpoint["relabelings"].as_array().unwrap() {
        let text = relabeling.to_string();
        let text = text.replace("sourceLabels", "source_labels");
        let text = text.replace("targetLabel", "target_label");
        relabelings.push(serde_json::from_str(&text).unwrap());
    }
    json!({"job_name": "operator", "kubernetes_sd_configs": [{"role": "pod"}], "relabel_configs": relabelings})
}

#[test]
fn each_exporter_of_a_cluster_is_scraped_once_and_says_whose_it_is() {
    let config = yaml(&read("deploy/prometheus/prometheus-kubernetes.yaml"));
    let mut jobs = config[0]["scrape_configs"].as_array().unwrap().clone();
    jobs.push(of_pod_monitor());
    let [sidecars, annotated, nodes, operator] = taken(&jobs).try_into().unwrap();
    let of = |instance, pod, workload| {
        labels([
            ("instance", instance),
            ("namespace", "shop"),
            ("pod", pod),
            ("node", "n1"),
            ("workload", workload),
        ])
    };
    let webs = ["10.0.0.1:10128", "10.0.0.2:10128", "10.0.0.3:10128"]
        .map(|instance| of(instance, "web-app-7d4b9-x2x", "web-app"));
    assert_eq!(sidecars, BTreeSet::from(webs));
    assert_eq!(operator, sidecars);
    let dbs = [
        of("10.0.1.1:10128", "old-db-0", "old-db"),
        of("[fd00::1]:10128", "old-db-1", "old-db"),
    ];
    assert_eq!(annotated, BTreeSet::from(dbs));
    // The labels namespace and pod are the series' own.
    let node = labels([("instance", "10.0.2.1:10128"), ("node", "n1")]);
    assert_eq!(nodes, BTreeSet::from([node]));
    assert_eq!(jobs[2]["honor_labels"], true);
}

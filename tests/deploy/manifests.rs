//! The Kubernetes manifests: what kustomize makes of them, against the schemas of Kubernetes, the Prometheus operator and KEDA.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::common::program;
use crate::files::{ROOT, container_tool, kustomize, named, of_kind, read, yaml};
use crate::podman::exporter_image;
use listen_queue_exporter::cli::PORT;

const EXPORTER: &str = "listen-queue-exporter";
/// The label by which a pod with the sidecar is found.
const SCRAPE: &str = "listen-queue-exporter/scrape";
/// The oldest release with native sidecars switched on, and the newest that the tool knows.
const RELEASES: &[&[&str]] = &[&["--kubernetes-version", "1.29"], &[]];
/// Defined by operators, not by Kubernetes.
const CUSTOM: &[&str] = &["PodMonitor", "PrometheusRule", "ScaledObject"];
/// Workloads of a user, before they have the sidecar.
const WORKLOADS: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: one}
spec:
  selector: {matchLabels: {app: one}}
  template:
    metadata: {labels: {app: one}}
    spec:
      initContainers: [{name: theirs, image: theirs}]
      containers: [{name: app, image: app}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: two}
spec:
  selector: {matchLabels: {app: two}}
  serviceName: two
  template:
    metadata: {labels: {app: two}}
    spec:
      containers: [{name: app, image: app}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: three}
spec:
  selector: {matchLabels: {app: three}}
  template:
    metadata: {labels: {app: three}}
    spec:
      containers: [{name: app, image: app}]
";

/// What a user's kustomization with the workloads above and this component makes.
fn with_component(component: &str) -> String {
    with_component_on(component, WORKLOADS)
}

fn with_component_on(component: &str, workloads: &str) -> String {
    let places = Path::new(ROOT).join("target/kustomize");
    fs::create_dir_all(&places).unwrap();
    let place = tempfile::tempdir_in(places).unwrap();
    fs::write(place.path().join("workloads.yaml"), workloads).unwrap();
    let kustomization = format!(
        "resources: [workloads.yaml]\ncomponents: [../../../deploy/kubernetes/{component}]\n"
    );
    fs::write(place.path().join("kustomization.yaml"), kustomization).unwrap();
    kustomize(place.path())
}

pub(crate) fn validate(manifests: &str) {
    let mut file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    file.write_all(manifests.as_bytes()).unwrap();
    for release in RELEASES {
        let mut validate = container_tool("kubernetes-validate");
        validate.arg("--strict").args(*release).arg(file.path());
        let output = validate.output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{said}");
        let unknown = said
            .lines()
            .filter(|line| line.contains("Couldn't find schema"));
        for line in unknown {
            assert!(CUSTOM.iter().any(|kind| line.contains(kind)), "{line}");
        }
    }
    let custom = yaml(manifests);
    let custom = custom
        .iter()
        .filter(|d| CUSTOM.iter().any(|kind| d["kind"] == *kind));
    let custom: Vec<_> = custom.map(Value::to_string).collect();
    let mut node = container_tool("node");
    node.arg("tests/deploy/validate.mjs");
    node.arg(Path::new(ROOT).join("target/tools/node"));
    let node = node.current_dir(ROOT).stdin(Stdio::piped());
    let mut node = node
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    node.stdin
        .take()
        .unwrap()
        .write_all(custom.join("\n").as_bytes())
        .unwrap();
    let output = node.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let checked = String::from_utf8_lossy(&output.stdout).lines().count();
    assert_eq!(checked, custom.len());
}

#[test]
fn the_example_is_valid_and_whole() {
    let manifests = kustomize("deploy/kubernetes/example");
    validate(&manifests);
    let documents = yaml(&manifests);
    let kinds: Vec<_> = documents
        .iter()
        .map(|d| d["kind"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "Namespace",
            "ConfigMap",
            "ConfigMap",
            "ConfigMap",
            "Service",
            "Deployment",
            "PodMonitor",
            "PrometheusRule"
        ]
    );
    let rule = of_kind(&documents, "PrometheusRule")[0];
    assert_eq!(
        rule["spec"]["groups"],
        yaml(&read("deploy/prometheus/rules.yaml"))[0]["groups"]
    );
    let maps = of_kind(&documents, "ConfigMap");
    let dashboards: Vec<_> = maps
        .iter()
        .filter(|map| map["metadata"]["labels"]["grafana_dashboard"] == "1")
        .collect();
    assert_eq!(dashboards.len(), 1);
    let dashboard = dashboards[0]["data"]["listen-queue-exporter.json"].as_str();
    assert_eq!(dashboard, Some(read("grafana/dashboard.json").as_str()));
    // The pods are those that the Service and the PodMonitor mean.
    let deployment = of_kind(&documents, "Deployment")[0];
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    let service = &of_kind(&documents, "Service")[0]["spec"]["selector"];
    assert_eq!(*service, deployment["spec"]["selector"]["matchLabels"]);
    assert_eq!(
        *labels,
        json!({"app.kubernetes.io/name": "web", SCRAPE: "example"})
    );
    let monitor = &of_kind(&documents, "PodMonitor")[0]["spec"];
    assert_eq!(
        monitor["selector"],
        json!({"matchLabels": {SCRAPE: "example"}})
    );
    assert_eq!(monitor["podMetricsEndpoints"][0]["port"], "lq-metrics");
    // Its own namespace, and the one for the whole cluster takes other pods: nothing is scraped twice.
    assert_eq!(monitor.get("namespaceSelector"), None);
    let cluster = &yaml(&read("deploy/prometheus/podmonitor.yaml"))[0]["spec"];
    assert_eq!(cluster["namespaceSelector"], json!({"any": true}));
    assert_eq!(
        cluster["selector"],
        json!({"matchLabels": {SCRAPE: "true"}})
    );
}

#[test]
fn kube_prometheus_stack_finds_the_monitoring_by_its_release() {
    let plain = kustomize("deploy/kubernetes/monitoring");
    let labelled = kustomize("deploy/kubernetes/kube-prometheus-stack");
    for manifests in [&plain, &labelled] {
        validate(manifests);
    }
    let mut expected = yaml(&plain);
    for document in &mut expected {
        document["metadata"]["labels"]["release"] = json!("kube-prometheus-stack");
    }
    assert_eq!(yaml(&labelled), expected);
}

#[test]
fn prometheus_may_reach_the_sidecars_of_an_isolated_namespace() {
    let manifests = kustomize("deploy/kubernetes/networkpolicy");
    validate(&manifests);
    let policy = &yaml(&manifests)[0]["spec"];
    assert_eq!(
        policy["podSelector"],
        json!({"matchExpressions": [{"key": SCRAPE, "operator": "Exists"}]})
    );
    assert_eq!(policy["policyTypes"], json!(["Ingress"]));
    assert_eq!(policy["ingress"][0]["ports"], json!([{"port": PORT}]));
}

/// The names of the init containers of a workload.
fn init_containers(document: &Value) -> Vec<&str> {
    let list = &document["spec"]["template"]["spec"]["initContainers"];
    let list = list.as_array().into_iter().flatten();
    list.map(|c| c["name"].as_str().unwrap()).collect()
}

/// The workloads, one of them with the component's annotation.
fn annotated(workloads: &str, kind: &str, what: &str) -> String {
    let plain = format!("kind: {kind}\nmetadata: {{");
    let whole = format!("{plain}annotations: {{listen-queue-exporter/sidecar: {what}}}, ");
    assert!(workloads.contains(&plain));
    workloads.replace(&plain, &whole)
}

#[test]
fn a_workload_may_want_no_sidecar_or_one_after_its_init_containers() {
    let last = annotated(WORKLOADS, "Deployment", "after-init");
    let last = annotated(&last, "StatefulSet", "after-init");
    let last = annotated(&last, "DaemonSet", "none");
    let none = annotated(WORKLOADS, "Deployment", "none");
    let (last, none) = (
        with_component_on("sidecar", &last),
        with_component_on("sidecar", &none),
    );
    validate(&last);
    for (manifests, kind, expected) in [
        (&last, "Deployment", &["theirs", EXPORTER][..]),
        (&last, "StatefulSet", &[EXPORTER]),
        (&last, "DaemonSet", &[]),
        (&none, "Deployment", &["theirs"]),
        (&none, "StatefulSet", &[EXPORTER]),
    ] {
        let documents = yaml(manifests);
        let workload = of_kind(&documents, kind)[0];
        assert_eq!(init_containers(workload), expected, "{workload}");
        let labels = &workload["spec"]["template"]["metadata"]["labels"];
        let scraped = expected.contains(&EXPORTER).then(|| json!("true"));
        assert_eq!(labels.get(SCRAPE), scraped.as_ref());
    }
    let before = annotated(WORKLOADS, "Deployment", "none");
    let documents = yaml(&with_component_on("sidecar-before-1.29", &before));
    let deployment = of_kind(&documents, "Deployment")[0];
    let containers = &deployment["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers.as_array().map(Vec::len), Some(1));
}

#[test]
fn every_component_adds_what_it_says_to_every_kind_of_workload() {
    for (component, list) in [
        ("sidecar", "initContainers"),
        ("sidecar-before-1.29", "containers"),
    ] {
        let manifests = with_component(component);
        validate(&manifests);
        let documents = yaml(&manifests);
        assert_eq!(documents.len(), 3);
        for document in &documents {
            let spec = &document["spec"]["template"]["spec"];
            assert!(named(&spec["containers"], "app").is_some());
            let sidecar = named(&spec[list], EXPORTER).unwrap();
            assert_eq!(sidecar["image"], exporter_image());
            assert_eq!(
                document["spec"]["template"]["metadata"]["labels"][SCRAPE],
                "true"
            );
        }
        let theirs = of_kind(&documents, "Deployment")[0];
        let theirs = &theirs["spec"]["template"]["spec"]["initContainers"];
        assert!(named(theirs, "theirs").is_some());
        assert_eq!(theirs[0]["name"] == EXPORTER, list == "initContainers");
    }
    let manifests = with_component("somaxconn");
    validate(&manifests);
    for document in yaml(&manifests) {
        let sysctls = &document["spec"]["template"]["spec"]["securityContext"]["sysctls"];
        assert_eq!(
            *sysctls,
            json!([{"name": "net.core.somaxconn", "value": "8192"}])
        );
    }
}

fn sidecar(component: &str, list: &str) -> Value {
    let documents = yaml(&read(format!("deploy/kubernetes/{component}/sidecar.yaml")));
    documents[0]["spec"]["template"]["spec"][list][0].clone()
}

#[test]
fn what_is_pasted_by_hand_is_what_the_component_adds() {
    let page = read("docs/scraping.md");
    let section = page.split("## Without kustomize").nth(1).unwrap();
    let snippet = section.split("```yaml\n").nth(1).unwrap();
    let snippet = snippet.split("```").next().unwrap();
    let component = yaml(&read("deploy/kubernetes/sidecar/sidecar.yaml"));
    assert_eq!(
        yaml(snippet)[0]["template"],
        component[0]["spec"]["template"]
    );
}

#[test]
fn the_two_sidecars_differ_in_being_native_alone() {
    let mut native = sidecar("sidecar", "initContainers");
    let always = native.as_object_mut().unwrap().remove("restartPolicy");
    assert_eq!(always, Some(json!("Always")));
    assert_eq!(native, sidecar("sidecar-before-1.29", "containers"));
}

#[test]
fn the_sidecar_is_restricted_small_and_named() {
    let sidecar = sidecar("sidecar", "initContainers");
    let may = &sidecar["securityContext"];
    assert_eq!(
        *may,
        json!({
            "runAsNonRoot": true,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        })
    );
    assert_eq!(
        sidecar["resources"]["requests"],
        json!({"cpu": "5m", "memory": "8Mi"})
    );
    assert_eq!(
        sidecar["resources"]["limits"],
        json!({"cpu": "50m", "memory": "16Mi"})
    );
    assert_eq!(
        sidecar["ports"],
        json!([{"name": "lq-metrics", "containerPort": PORT}])
    );
    assert_eq!(
        sidecar["livenessProbe"]["httpGet"],
        json!({"path": "/-/healthy", "port": "lq-metrics"})
    );
}

#[test]
fn the_whole_example_is_restricted() {
    let documents = yaml(&kustomize("deploy/kubernetes/example"));
    let namespace = of_kind(&documents, "Namespace")[0];
    assert_eq!(
        namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"],
        "restricted"
    );
    let spec = &of_kind(&documents, "Deployment")[0]["spec"]["template"]["spec"];
    assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
    assert_eq!(
        spec["securityContext"]["seccompProfile"]["type"],
        "RuntimeDefault"
    );
    let containers = ["initContainers", "containers"].map(|list| spec[list].as_array().unwrap());
    for container in containers.into_iter().flatten() {
        let may = &container["securityContext"];
        assert_eq!(may["allowPrivilegeEscalation"], false, "{container}");
        assert_eq!(may["readOnlyRootFilesystem"], true, "{container}");
        assert_eq!(may["capabilities"], json!({"drop": ["ALL"]}), "{container}");
        assert!(may["runAsUser"].as_u64() > Some(0), "{container}");
    }
}

/// The DaemonSet of an overlay.
fn daemonset(overlay: &str) -> Value {
    let manifests = kustomize(format!("deploy/kubernetes/daemonset/{overlay}"));
    validate(&manifests);
    let documents = yaml(&manifests);
    let mut kinds: Vec<_> = documents
        .iter()
        .map(|d| d["kind"].as_str().unwrap())
        .collect();
    kinds.sort_unstable();
    assert_eq!(
        kinds,
        ["DaemonSet", "Namespace", "NetworkPolicy", "PodMonitor"]
    );
    let daemonset = of_kind(&documents, "DaemonSet")[0].clone();
    let labels = &daemonset["spec"]["template"]["metadata"]["labels"];
    let monitor = of_kind(&documents, "PodMonitor")[0];
    assert_eq!(monitor["spec"]["selector"]["matchLabels"], *labels);
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    assert_eq!(
        (&endpoint["port"], &endpoint["honorLabels"]),
        (&json!("lq-metrics"), &json!(true))
    );
    let policy = of_kind(&documents, "NetworkPolicy")[0];
    assert_eq!(policy["spec"]["podSelector"]["matchLabels"], *labels);
    assert!(
        documents
            .iter()
            .all(|d| d["kind"] == "Namespace"
                || d["metadata"]["namespace"] == "listen-queue-exporter")
    );
    daemonset
}

#[test]
fn one_exporter_a_node_has_the_two_capabilities_or_none_and_is_shut_otherwise() {
    for (overlay, user, added) in [
        ("full", 0, Some(json!(["SYS_ADMIN", "SYS_PTRACE"]))),
        ("unprivileged", 65532, None),
    ] {
        let daemonset = daemonset(overlay);
        let spec = &daemonset["spec"]["template"]["spec"];
        assert_eq!(
            (&spec["hostPID"], &spec["hostNetwork"]),
            (&json!(true), &Value::Null)
        );
        assert_eq!(spec["tolerations"], json!([{"operator": "Exists"}]));
        // /var/log/pods is for root and for root's group.
        let groups = &spec["securityContext"]["supplementalGroups"];
        assert_eq!(*groups == json!([0]), user != 0);
        let container = named(&spec["containers"], EXPORTER).unwrap();
        assert_eq!(container["image"], exporter_image());
        assert_eq!(container["args"], json!(["--node"]));
        let may = &container["securityContext"];
        assert_eq!(may["capabilities"]["drop"], json!(["ALL"]));
        assert_eq!(may["capabilities"].get("add"), added.as_ref());
        assert_eq!(
            (&may["runAsUser"], &may["privileged"]),
            (&json!(user), &Value::Null)
        );
        assert_eq!(may["readOnlyRootFilesystem"], true);
        assert_eq!(may["allowPrivilegeEscalation"], false);
        assert_eq!(may["seccompProfile"]["type"], "RuntimeDefault");
        let mounts = container["volumeMounts"].as_array().unwrap();
        assert!(mounts.iter().all(|mount| mount["readOnly"] == true));
        assert_eq!(
            container["ports"],
            json!([{"name": "lq-metrics", "containerPort": PORT}])
        );
    }
}

#[test]
fn the_autoscalers_are_valid_and_ask_what_prometheus_understands() {
    let folder = "deploy/kubernetes/autoscaling";
    let hpa = read(format!("{folder}/hpa.yaml"));
    let keda = read(format!("{folder}/keda.yaml"));
    validate(&format!("{hpa}---\n{keda}"));
    let (hpa, keda) = (&yaml(&hpa)[0]["spec"], &yaml(&keda)[0]["spec"]);
    assert_eq!(
        hpa["scaleTargetRef"]["name"],
        keda["scaleTargetRef"]["name"]
    );
    assert_eq!(hpa["minReplicas"], keda["minReplicaCount"]);
    assert_eq!(hpa["maxReplicas"], keda["maxReplicaCount"]);
    let advanced = &keda["advanced"]["horizontalPodAutoscalerConfig"];
    assert_eq!(hpa["behavior"], advanced["behavior"]);
    let metric = &hpa["metrics"][0]["pods"];
    assert_eq!(metric["target"]["averageValue"], "100m");
    let trigger = &keda["triggers"][0]["metadata"];
    assert_eq!(trigger["threshold"], "0.1");

    let rules = yaml(&read(format!("{folder}/prometheus-adapter.yaml")));
    let rule = &rules[0]["rules"][0];
    assert_eq!(rule["name"]["as"], metric["metric"]["name"]);
    let query = rule["metricsQuery"].as_str().unwrap();
    let query = query.replace("<<.GroupBy>>", "pod");
    let query = query.replace("<<.LabelMatchers>>", "namespace=\"n\",pod=~\"a|b\"");
    let expressions: BTreeSet<_> = [&query, trigger["query"].as_str().unwrap()]
        .map(|expr| json!({"record": "test:it", "expr": expr}).to_string())
        .into();
    let rules: Vec<Value> = expressions
        .iter()
        .map(|r| serde_json::from_str(r).unwrap())
        .collect();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let group = json!({"groups": [{"name": "test", "rules": rules}]});
    write!(file, "{group}").unwrap();
    let mut promtool = program::command("promtool");
    program::run(promtool.args(["check", "rules"]).arg(file.path()));
}

//! The Helm chart: what it renders by default and with each of its values, against the schemas and against what kustomize makes.

use std::collections::BTreeSet;
use std::fs;
use std::process::Output;

use regex_lite::Regex;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::program;
use crate::files::{ROOT, container_tool, kustomize, named, of_kind, read, yaml};
use crate::manifests::validate;

const CHART: &str = "deploy/helm/listen-queue-exporter";
const VERSION: &str = env!("CARGO_PKG_VERSION");

fn helm(arguments: &[&str], values: &Value) -> Output {
    let file = tempfile::NamedTempFile::with_suffix(".json").unwrap();
    fs::write(file.path(), values.to_string()).unwrap();
    let mut helm = container_tool("helm");
    helm.args(arguments).arg("--values").arg(file.path());
    helm.current_dir(ROOT).output().unwrap()
}

fn render_chart(chart: &str, values: &Value) -> String {
    render_release("lq", "queues", chart, values)
}

fn render_release(name: &str, namespace: &str, chart: &str, values: &Value) -> String {
    let output = helm(&["template", name, chart, "--namespace", namespace], values);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{values}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn render(values: &Value) -> Vec<Value> {
    yaml(&render_chart(CHART, values))
}

fn kinds(documents: &[Value]) -> Vec<&str> {
    let kinds = documents.iter().map(|d| d["kind"].as_str().unwrap());
    let mut kinds: Vec<_> = kinds.collect();
    kinds.sort_unstable();
    kinds
}

/// Everything that the chart can make.
fn everything() -> Value {
    json!({
        "podMonitor": {"enabled": true}, "prometheusRule": {"enabled": true},
        "dashboard": {"enabled": true}, "networkPolicy": {"enabled": true},
    })
}

/// `change` over `values`, at every depth.
fn over(mut values: Value, change: &Value) -> Value {
    match change.as_object() {
        Some(fields) if values.is_object() => {
            for (name, field) in fields {
                let before = values[name].take();
                values[name] = over(before, field);
            }
            values
        }
        _ => change.clone(),
    }
}

const POD: &str = "/spec/template/spec";
const CONTAINER: &str = "/spec/template/spec/containers/0";
const LABELS: &str = "/spec/template/metadata/labels";
const ENDPOINT: &str = "/spec/podMetricsEndpoints/0";

/// A value by its path, and what it makes in the object of a kind: pointer, in two parts, and what is there.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

#[rustfmt::skip]
const OPTIONS: &[Row] = &[
    ("nameOverride", "other", "DaemonSet", "", "/metadata/name", "lq-other"),
    ("fullnameOverride", "other", "DaemonSet", "", "/metadata/name", "other"),
    ("commonLabels.team", "web", "ServiceAccount", "", "/metadata/labels/team", "web"),
    ("commonLabels.team", "web", "DaemonSet", LABELS, "/team", "web"),
    ("image.repository", "mirror/lq", "DaemonSet", CONTAINER, "/image", concat!("mirror/lq:", env!("CARGO_PKG_VERSION"))),
    ("image.tag", "edge", "DaemonSet", CONTAINER, "/image", "ghcr.io/listen-queue-exporter/listen-queue-exporter:edge"),
    ("image.digest", DIGEST, "DaemonSet", CONTAINER, "/image", BY_DIGEST),
    ("image.pullPolicy", "Always", "DaemonSet", CONTAINER, "/imagePullPolicy", "Always"),
    ("imagePullSecrets", r#"[{"name":"r"}]"#, "DaemonSet", POD, "/imagePullSecrets", r#"[{"name":"r"}]"#),
    ("node.extraArgs", r#"["--node.idle"]"#, "DaemonSet", CONTAINER, "/args", r#"["--node","--node.idle"]"#),
    ("node.podLogs", "/logs", "DaemonSet", POD, "/volumes/0/hostPath/path", "/logs"),
    ("node.resources", r#"{"limits":{"memory":"64Mi"}}"#, "DaemonSet", CONTAINER, "/resources/limits/memory", "64Mi"),
    ("node.podLabels.a", "b", "DaemonSet", LABELS, "/a", "b"),
    ("node.podAnnotations.a", "b", "DaemonSet", "", "/spec/template/metadata/annotations/a", "b"),
    ("node.nodeSelector.a", "b", "DaemonSet", POD, "/nodeSelector", r#"{"a":"b","kubernetes.io/os":"linux"}"#),
    ("node.affinity", r#"{"podAffinity":{}}"#, "DaemonSet", POD, "/affinity", r#"{"podAffinity":{}}"#),
    ("node.tolerations", "[]", "DaemonSet", POD, "/tolerations", "null"),
    ("node.priorityClassName", "system-node-critical", "DaemonSet", POD, "/priorityClassName", "system-node-critical"),
    ("node.updateStrategy.rollingUpdate.maxUnavailable", "1", "DaemonSet", "", "/spec/updateStrategy/rollingUpdate/maxUnavailable", "1"),
    ("serviceAccount.name", "own", "ServiceAccount", "", "/metadata/name", "own"),
    ("serviceAccount.name", "own", "DaemonSet", POD, "/serviceAccountName", "own"),
    ("serviceAccount.create", "false", "DaemonSet", POD, "/serviceAccountName", "default"),
    ("serviceAccount.annotations.a", "b", "ServiceAccount", "", "/metadata/annotations/a", "b"),
    ("networkPolicy.from", r#"[{"podSelector":{}}]"#, "NetworkPolicy", "", "/spec/ingress/0/from", r#"[{"podSelector":{}}]"#),
    ("podMonitor.namespaceSelector.matchNames", r#"["web"]"#, SIDECARS, "", "/spec/namespaceSelector", r#"{"matchNames":["web"]}"#),
    ("podMonitor.namespaceSelector.any", "false", SIDECARS, "", "/spec/namespaceSelector", r#"{"any":false}"#),
    ("podMonitor.relabelings", r#"[{"action":"labelkeep"}]"#, NODES, ENDPOINT, "/relabelings/1", r#"{"action":"labelkeep"}"#),
    ("podMonitor.relabelings", r#"[{"action":"labelkeep"}]"#, SIDECARS, ENDPOINT, "/relabelings/3", r#"{"action":"labelkeep"}"#),
    ("podMonitor.metricRelabelings", r#"[{"action":"labelkeep"}]"#, NODES, ENDPOINT, "/metricRelabelings", r#"[{"action":"labelkeep"}]"#),
    ("podMonitor.metricRelabelings", r#"[{"action":"labelkeep"}]"#, SIDECARS, ENDPOINT, "/metricRelabelings", r#"[{"action":"labelkeep"}]"#),
    ("podMonitor.labels.release", "r", NODES, "", "/metadata/labels/release", "r"),
    ("podMonitor.labels.release", "r", SIDECARS, "", "/metadata/labels/release", "r"),
    ("podMonitor.interval", "1m", NODES, ENDPOINT, "/interval", "1m"),
    ("podMonitor.interval", "1m30s", SIDECARS, ENDPOINT, "/interval", "1m30s"),
    ("podMonitor.interval", r#""""#, SIDECARS, ENDPOINT, "/interval", "null"),
    ("podMonitor.scrapeTimeout", "5s", NODES, ENDPOINT, "/scrapeTimeout", "5s"),
    ("podMonitor.scrapeTimeout", "5s", SIDECARS, ENDPOINT, "/scrapeTimeout", "5s"),
    ("prometheusRule.labels.release", "r", "PrometheusRule", "", "/metadata/labels/release", "r"),
    ("dashboard.labels.own", "1", "ConfigMap", "", "/metadata/labels/own", r#""1""#),
    ("dashboard.annotations.grafana_folder", "Queues", "ConfigMap", "", "/metadata/annotations/grafana_folder", "Queues"),
];
/// The two monitors, each rendered without the other.
const NODES: &str = "PodMonitor of the nodes";
const SIDECARS: &str = "PodMonitor of the sidecars";
const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const BY_DIGEST: &str = concat!(
    "ghcr.io/listen-queue-exporter/listen-queue-exporter:",
    env!("CARGO_PKG_VERSION"),
    "@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
);

/// JSON, or a text as it is.
fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| json!(text))
}

#[test]
fn lint_and_the_schemas_find_no_mistake_with_or_without_any_value() {
    let output = helm(&["lint", "--strict", CHART], &everything());
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let mut all = render_chart(CHART, &json!({}));
    for access in ["full", "unprivileged"] {
        all += &render_chart(
            CHART,
            &over(everything(), &json!({"node": {"access": access}})),
        );
    }
    for (path, text, kind, place, pointer, expected) in OPTIONS {
        let text = match *path {
            // A label is a text.
            "dashboard.labels.own" => json!(text),
            _ => value(text),
        };
        let values = path
            .rsplit('.')
            .fold(text, |value, name| json!({ name: value }));
        let (kind, alone) = match *kind {
            NODES => ("PodMonitor", json!({"podMonitor": {"sidecars": false}})),
            SIDECARS => ("PodMonitor", json!({"node": {"enabled": false}})),
            kind => (kind, json!({})),
        };
        let rendered = render_chart(CHART, &over(over(everything(), &alone), &values));
        let documents = yaml(&rendered);
        let [object] = of_kind(&documents, kind)[..] else {
            panic!("one {kind} with {values}");
        };
        let found = object
            .pointer(&format!("{place}{pointer}"))
            .unwrap_or(&Value::Null);
        assert_eq!(*found, value(expected), "{pointer} of {kind} with {values}");
        all += &rendered;
    }
    validate(&all);
}

#[test]
fn labels_and_annotations_of_the_user_neither_repeat_nor_replace_those_that_select() {
    let rendered = render_chart(
        CHART,
        &over(
            everything(),
            &json!({
                "commonLabels": {
                    "release": "common", "team": "web", "grafana_dashboard": "2",
                    "app.kubernetes.io/name": "web", "app.kubernetes.io/component": "web",
                },
                "podMonitor": {"labels": {"release": "own"}},
                "prometheusRule": {"labels": {"release": "own"}},
                "node": {
                    "podLabels": {"team": "nodes", "app.kubernetes.io/instance": "web"},
                    "podAnnotations": {"kubectl.kubernetes.io/default-container": "injected"},
                },
            }),
        ),
    );
    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    fs::write(file.path(), &rendered).unwrap();
    let mut yamllint = container_tool("yamllint");
    yamllint.args(["--config-data", "{rules: {key-duplicates: enable}}"]);
    program::run(yamllint.arg(file.path()));

    let documents = yaml(&rendered);
    let labels = |kind| &of_kind(&documents, kind)[0]["metadata"]["labels"];
    assert_eq!(labels("ServiceAccount")["release"], "common");
    assert_eq!(labels("PodMonitor")["release"], "own");
    assert_eq!(labels("PrometheusRule")["release"], "own");
    assert_eq!(labels("ConfigMap")["grafana_dashboard"], "1");
    assert_eq!(
        labels("ConfigMap")["app.kubernetes.io/name"],
        "listen-queue-exporter"
    );
    let daemonset = of_kind(&documents, "DaemonSet")[0];
    let pod = &daemonset["spec"]["template"]["metadata"];
    assert_eq!(pod["labels"]["team"], "nodes");
    for (name, value) in daemonset["spec"]["selector"]["matchLabels"]
        .as_object()
        .unwrap()
    {
        assert_eq!(pod["labels"][name], *value);
    }
    assert_eq!(
        pod["annotations"]["kubectl.kubernetes.io/default-container"],
        "injected"
    );
}

#[test]
fn names_that_look_like_numbers_stay_texts() {
    let values = json!({
        "fullnameOverride": "1", "serviceAccount": {"name": "2"}, "node": {"priorityClassName": "3"},
    });
    validate(&render_release("456", "789", CHART, &everything()));
    validate(&render_release(
        "1e3",
        "789",
        CHART,
        &over(everything(), &values),
    ));
}

/// The names that lead to each value and group of values.
fn paths(values: &Value, path: &[String], found: &mut Vec<Vec<String>>) {
    for (name, value) in values.as_object().into_iter().flatten() {
        let path = [path, std::slice::from_ref(name)].concat();
        paths(value, &path, found);
        found.push(path);
    }
}

#[test]
fn a_value_that_is_removed_is_as_an_empty_one_or_is_missed() {
    let values = &yaml(&read(format!("{CHART}/values.yaml")))[0];
    let mut found = Vec::new();
    paths(values, &[], &mut found);
    let placeholder = Regex::new("@[a-zA-Z]+@").unwrap();
    let (mut all, mut missed) = (String::new(), Vec::new());
    for path in found {
        // The dashboard is long.
        let dashboard = json!({"dashboard": {"enabled": path[0] == "dashboard"}});
        let names = path.iter().rev();
        let removed = names.fold(Value::Null, |value, name| json!({ name: value }));
        let values = over(over(everything(), &dashboard), &removed);
        let output = helm(&["template", "lq", CHART], &values);
        if output.status.success() {
            let rendered = String::from_utf8(output.stdout).unwrap();
            assert!(!placeholder.is_match(&rendered), "{path:?}");
            all += &rendered;
        } else {
            let said = String::from_utf8_lossy(&output.stderr);
            let complaint = format!("missing property '{}'", path.last().unwrap());
            assert!(said.contains(&complaint), "{path:?}: {said}");
            missed.push(path.join("."));
        }
    }
    validate(&all);
    for path in ["image.repository", "prometheusRule.thresholds.lateRatio"] {
        assert!(missed.iter().any(|missed| missed == path), "{path}");
    }
}

#[test]
fn a_share_can_be_set_on_the_command_line() {
    let set = "prometheusRule.thresholds.nearlyFull=0.9,prometheusRule.thresholds.slowSeconds=2.5";
    let values = json!({"prometheusRule": {"enabled": true}});
    let output = helm(&["template", "lq", CHART, "--set", set], &values);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let rendered = String::from_utf8(output.stdout).unwrap();
    assert!(
        rendered.contains(" > 0.9\n")
            && rendered.contains("listen_queue_oldest_wait_seconds > 2.5\n")
    );
}

#[test]
fn each_part_can_be_installed_alone() {
    let nothing = json!({"node": {"enabled": false}});
    assert_eq!(kinds(&render(&json!({}))), ["DaemonSet", "ServiceAccount"]);
    assert!(render(&nothing).iter().all(Value::is_null));
    let alone = |part: &str| render(&over(nothing.clone(), &json!({part: {"enabled": true}})));
    assert_eq!(kinds(&alone("podMonitor")), ["PodMonitor"]);
    assert_eq!(kinds(&alone("prometheusRule")), ["PrometheusRule"]);
    assert_eq!(kinds(&alone("dashboard")), ["ConfigMap"]);
    assert!(
        alone("networkPolicy").iter().all(Value::is_null),
        "it is of the nodes"
    );
    assert_eq!(
        kinds(&render(&json!({"serviceAccount": {"create": false}}))),
        ["DaemonSet"]
    );
    let monitors = render(&json!({"podMonitor": {"enabled": true}}));
    assert_eq!(
        kinds(&monitors),
        ["DaemonSet", "PodMonitor", "PodMonitor", "ServiceAccount"]
    );
}

#[test]
fn the_exporters_of_the_nodes_are_those_of_the_overlays() {
    for overlay in ["full", "unprivileged"] {
        let theirs = yaml(&kustomize(format!("deploy/kubernetes/daemonset/{overlay}")));
        let ours = render(&over(everything(), &json!({"node": {"access": overlay}})));
        let (theirs_pod, mut pod) = (
            of_kind(&theirs, "DaemonSet")[0]["spec"]["template"].clone(),
            of_kind(&ours, "DaemonSet")[0]["spec"]["template"].clone(),
        );
        let account = pod["spec"]
            .as_object_mut()
            .unwrap()
            .remove("serviceAccountName");
        assert_eq!(account.unwrap(), "lq-listen-queue-exporter");
        let container = pod["spec"]["containers"][0].as_object_mut().unwrap();
        assert_eq!(container.remove("imagePullPolicy").unwrap(), "IfNotPresent");
        assert_eq!(pod["spec"], theirs_pod["spec"], "{overlay}");
        assert_eq!(
            pod["metadata"]["annotations"],
            theirs_pod["metadata"]["annotations"]
        );
        let spec = |documents: &[Value], kind, pointer| {
            let object = of_kind(documents, kind)[0];
            object.pointer(pointer).unwrap().clone()
        };
        for (kind, pointer) in [
            ("DaemonSet", "/spec/updateStrategy"),
            ("PodMonitor", "/spec/podMetricsEndpoints"),
            ("NetworkPolicy", "/spec/policyTypes"),
            ("NetworkPolicy", "/spec/ingress"),
        ] {
            assert_eq!(
                spec(&ours, kind, pointer),
                spec(&theirs, kind, pointer),
                "{kind}"
            );
        }
        // Whatever selects the pods selects these.
        let labels = pod["metadata"]["labels"].clone();
        for (kind, pointer) in [
            ("DaemonSet", "/spec/selector/matchLabels"),
            ("PodMonitor", "/spec/selector/matchLabels"),
            ("NetworkPolicy", "/spec/podSelector/matchLabels"),
        ] {
            assert_eq!(spec(&ours, kind, pointer), labels, "{kind}");
        }
    }
}

#[test]
fn the_monitoring_of_sidecars_is_that_of_kustomize() {
    let ours = render(&over(everything(), &json!({"node": {"enabled": false}})));
    assert_eq!(kinds(&ours), ["ConfigMap", "PodMonitor", "PrometheusRule"]);
    let theirs = yaml(&kustomize("deploy/kubernetes/monitoring"));
    for kind in ["PodMonitor", "PrometheusRule"] {
        let [ours, theirs] = [&ours, &theirs].map(|documents| &of_kind(documents, kind)[0]["spec"]);
        assert_eq!(ours, theirs, "{kind}");
    }
    let map = of_kind(&ours, "ConfigMap")[0];
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    let dashboard = &of_kind(&theirs, "ConfigMap")[0]["data"];
    assert_eq!(map["data"], *dashboard);
}

#[test]
fn changed_rules_are_those_of_the_mixin_with_the_same_change() {
    let thresholds = json!({
        "fullSeconds": 20, "smallCapacity": 16, "nearlyFull": 0.875, "slowSeconds": 5, "stuckSeconds": 60,
        "manyPods": 3, "replacements": 4, "lateRatio": 0.25,
    });
    let mut values = json!({
        "enabled": true, "selector": "cluster=\"one\"", "extraLabels": {"team": "web"}, "runbookPrefix": "https://wiki/",
        "absent": true, "severities": {"critical": "page", "warning": "ticket", "info": "none"}, "thresholds": thresholds,
    });
    let chart = render(&json!({"prometheusRule": values, "dashboard": {"enabled": true}}));
    let groups = of_kind(&chart, "PrometheusRule")[0]["spec"]["groups"].clone();

    let config = values.as_object_mut().unwrap();
    config.remove("enabled");
    for (name, value) in config.remove("thresholds").unwrap().as_object().unwrap() {
        config.insert(name.clone(), value.clone());
    }
    let snippet = format!(
        "((import 'deploy/mixin/mixin.libsonnet') + {{ _config+:: {values} }}).prometheusAlerts"
    );
    let mut python = container_tool("python");
    python.args([
        "-c",
        "import sys, _jsonnet; print(_jsonnet.evaluate_snippet('', sys.argv[1]))",
        &snippet,
    ]);
    let mixin: Value = serde_json::from_str(&program::run(python.current_dir(ROOT))).unwrap();
    let rules = |groups: &Value| groups[0]["rules"].as_array().unwrap().clone();
    let (ours, theirs) = (rules(&groups), rules(&mixin["groups"]));
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }

    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    fs::write(file.path(), json!({"groups": groups}).to_string()).unwrap();
    program::run(
        program::command("promtool")
            .args(["check", "rules"])
            .arg(file.path()),
    );

    let dashboard = of_kind(&chart, "ConfigMap")[0]["data"].to_string();
    assert!(dashboard.contains("https://wiki/ListenQueue"));
    assert!(!dashboard.contains("/prometheus/runbooks/"));

    // The job of a PodMonitor has the name of the release.
    let named = json!({"fullnameOverride": "queues", "prometheusRule": {"enabled": true, "disabled": ["ListenQueueSlow"]}});
    let rules = of_kind(&render(&named), "PrometheusRule")[0].to_string();
    assert!(rules.contains(r#"up{job=~\".*(listen-queue-exporter|queues).*\"}"#));
    assert!(!rules.contains(r#""alert":"ListenQueueSlow""#) && rules.contains("ListenQueueFull"));
}

/// A user's chart with the templates of docs/helm.md. The dependency has further fields.
fn chart_of_a_user(page: &str, fields: &str) -> TempDir {
    let place = tempfile::tempdir().unwrap();
    let templates = place.path().join("templates");
    fs::create_dir(&templates).unwrap();
    let chart = format!(
        "apiVersion: v2\nname: web\nversion: 1.2.3\ndependencies:\n  - name: listen-queue-exporter\n    version: {VERSION}\n    repository: file://{ROOT}/{CHART}\n{fields}"
    );
    fs::write(place.path().join("Chart.yaml"), chart).unwrap();
    let (_, included) = page.split_once("# templates/deployment.yaml\n").unwrap();
    let (included, _) = included.split_once("```").unwrap();
    let labels = "      labels:\n";
    let deployment = format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\nspec:\n  selector:\n    matchLabels:\n      app: web\n{}      containers:\n        - name: app\n          image: app\n",
        included.replace(labels, &format!("{labels}        app: web\n"))
    );
    fs::write(templates.join("deployment.yaml"), deployment).unwrap();
    let mut helm = container_tool("helm");
    program::run(helm.args(["dependency", "update"]).arg(place.path()));
    place
}

#[test]
fn a_chart_of_somebody_else_gets_the_sidecar_by_include() {
    let page = read("docs/helm.md");
    let place = chart_of_a_user(&page, "");
    let chart = place.path().to_str().unwrap();

    let off = json!({"listen-queue-exporter": {"node": {"enabled": false}}});
    let rendered = render_chart(chart, &off);
    validate(&rendered);
    let documents = yaml(&rendered);
    assert_eq!(kinds(&documents), ["Deployment"]);
    let template = &documents[0]["spec"]["template"];
    assert_eq!(
        template["metadata"]["labels"]["listen-queue-exporter/scrape"],
        "true"
    );
    let component = yaml(&read("deploy/kubernetes/sidecar/sidecar.yaml"));
    let mut sidecar = template["spec"]["initContainers"][0].clone();
    sidecar.as_object_mut().unwrap().remove("imagePullPolicy");
    assert_eq!(
        sidecar,
        component[0]["spec"]["template"]["spec"]["initContainers"][0]
    );

    let (_, values) = page.split_once("# values.yaml\n").unwrap();
    let documented = &yaml(values.split_once("```").unwrap().0)[0];
    let mounts = json!([{"name": "run", "mountPath": "/run/app", "readOnly": true}]);
    let sidecar = json!({
        "native": false, "volumeMounts": mounts, "resources": {"limits": {"memory": "32Mi"}},
    });
    let changed = over(
        documented.clone(),
        &json!({"listen-queue-exporter": {"sidecar": sidecar}}),
    );
    let documents = yaml(&render_chart(chart, &changed));
    let container = &documents[0]["spec"]["template"]["spec"]["initContainers"][0];
    assert_eq!(
        container["args"],
        json!(["--listener=app=unix:/run/app/app.sock"])
    );
    assert_eq!(
        (container.get("restartPolicy"), &container["volumeMounts"]),
        (None, &mounts)
    );
    assert_eq!(container["resources"]["limits"]["memory"], "32Mi");
}

#[test]
fn the_dependency_may_have_a_condition_and_an_alias() {
    let page = read("docs/helm.md");
    // As the page says.
    let guard = r#"{{- if (index .Values "listen-queue-exporter").enabled }}"#;
    assert!(page.contains(guard));
    let include = r#"        {{- include "listen-queue-exporter.sidecar"#;
    let guarded = page
        .replace(include, &format!("        {guard}\n{include}"))
        .replace("| nindent 8 }}\n", "| nindent 8 }}\n        {{- end }}\n");
    let place = chart_of_a_user(&guarded, "    condition: listen-queue-exporter.enabled\n");
    let chart = place.path().to_str().unwrap();
    for enabled in [true, false] {
        let values =
            json!({"listen-queue-exporter": {"enabled": enabled, "node": {"enabled": false}}});
        let template = &yaml(&render_chart(chart, &values))[0]["spec"]["template"];
        assert_eq!(
            template["spec"]["initContainers"].is_array(),
            enabled,
            "{template}"
        );
        assert_eq!(
            template["metadata"]["labels"]["listen-queue-exporter/scrape"] == "true",
            enabled
        );
    }

    let place = chart_of_a_user(&page, "    alias: queues\n");
    let chart = place.path().to_str().unwrap();
    let values = json!({"queues": {"image": {"tag": "edge"}, "node": {"enabled": false}}});
    let documents = yaml(&render_chart(chart, &values));
    let image = &documents[0]["spec"]["template"]["spec"]["initContainers"][0]["image"];
    assert_eq!(
        image,
        "ghcr.io/listen-queue-exporter/listen-queue-exporter:edge"
    );

    // A chart beside it, in a chart that has both, has no values for it.
    let web = place.path().join("charts/web");
    fs::create_dir(&web).unwrap();
    fs::rename(place.path().join("templates"), web.join("templates")).unwrap();
    fs::write(
        web.join("Chart.yaml"),
        "apiVersion: v2\nname: web\nversion: 1.2.3\n",
    )
    .unwrap();
    let output = helm(&["template", "lq", chart], &values);
    let said = String::from_utf8_lossy(&output.stderr);
    let complaint = "the chart web does not have listen-queue-exporter as a dependency of its own";
    assert!(said.contains(complaint), "{said}");
}

#[test]
fn the_commands_and_values_of_the_page_work() {
    let page = read("docs/helm.md");
    let (mut installed, mut tried) = (String::new(), 0);
    for block in page.split("```").skip(1).step_by(2) {
        let (language, text) = block.split_once('\n').unwrap();
        if language == "sh" {
            for line in text.replace("\\\n", "").lines() {
                let mut words = line.split_whitespace();
                if (words.next(), words.next()) != (Some("helm"), Some("install")) {
                    continue;
                }
                let place = words.next().zip(words.next());
                let version = words.next().zip(words.next());
                let charts = "oci://ghcr.io/listen-queue-exporter/charts/listen-queue-exporter";
                assert_eq!(place, Some(("listen-queue-exporter", charts)));
                assert_eq!(version, Some(("--version", VERSION)));
                let mut helm = container_tool("helm");
                helm.args(["template", "listen-queue-exporter", CHART]);
                installed += &program::run(helm.args(words).current_dir(ROOT));
                tried += 1;
            }
        } else if !text.starts_with("# ") {
            let values = &yaml(text)[0];
            if values.get("extraInitContainers").is_none() {
                installed += &render_chart(CHART, values);
                tried += 1;
            }
        }
    }
    assert_eq!(tried, 5);
    validate(&installed);
}

#[test]
fn the_container_for_other_charts_in_the_page_is_that_of_the_component() {
    let page = read("docs/helm.md");
    let (_, snippet) = page.split_once("For example:\n\n```yaml\n").unwrap();
    let values = &yaml(snippet.split_once("```").unwrap().0)[0];
    let component = yaml(&read("deploy/kubernetes/sidecar/sidecar.yaml"));
    let template = &component[0]["spec"]["template"];
    assert_eq!(values["podLabels"], template["metadata"]["labels"]);
    let theirs = named(&template["spec"]["initContainers"], "listen-queue-exporter").unwrap();
    for (name, field) in values["extraInitContainers"][0].as_object().unwrap() {
        assert_eq!(field, &theirs[name], "{name}");
    }
}

#[test]
fn a_value_that_does_not_exist_or_has_another_type_is_refused() {
    for (values, complaint) in [
        (json!({"node": {"enbled": true}}), "enbled"),
        (json!({"nod": {}}), "nod"),
        (json!({"node": {"access": "some"}}), "access"),
        (json!({"node": {"extraArgs": "--node.idle"}}), "extraArgs"),
        (
            json!({"node": {"extraArgs": ["--web.route-prefix=/q"]}}),
            "/node/extraArgs/0",
        ),
        (
            json!({"sidecar": {"extraArgs": ["--web.listen-address=:9000"]}}),
            "/sidecar/extraArgs/0",
        ),
        (json!({"image": {"digest": "latest"}}), "digest"),
        (
            json!({"prometheusRule": {"thresholds": {"nearlyFull": 75}}}),
            "nearlyFull",
        ),
        (json!({"prometheusRule": {"selector": "a\nb"}}), "selector"),
        (
            json!({"prometheusRule": {"severities": {"critical": "a'b"}}}),
            "critical",
        ),
        (
            json!({"prometheusRule": {"selector": "{a=\"b\"}"}}),
            "selector",
        ),
        (
            json!({"prometheusRule": {"thresholds": {"nearlyFull": "75"}}}),
            "nearlyFull",
        ),
        (
            json!({"prometheusRule": {"extraLabels": {"a/b": "c"}}}),
            "'a/b'",
        ),
        (
            json!({"prometheusRule": {"enabled": true, "disabled": ["ListenQueueSlo"]}}),
            "there is no alert ListenQueueSlo, but ListenQueueConnectionsRefused, ",
        ),
        (json!({"fullnameOverride": "Queue_s"}), "fullnameOverride"),
        (json!({"podMonitor": {"interval": 15}}), "interval"),
    ] {
        let output = helm(&["template", "lq", CHART], &values);
        assert!(!output.status.success(), "{values}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(complaint), "{values}: {said}");
    }
}

/// The names of all values that have no further names in them.
fn leaves(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    match schema["properties"].as_object() {
        Some(properties) => {
            for (name, property) in properties {
                leaves(property, &format!("{path}/{name}"), found);
            }
        }
        None => assert!(found.insert(path.to_owned())),
    }
}

#[test]
fn every_value_is_in_the_schema_and_has_a_default_and_a_test() {
    let schema: Value = serde_json::from_str(&read(format!("{CHART}/values.schema.json"))).unwrap();
    let values = &yaml(&read(format!("{CHART}/values.yaml")))[0];
    let mut names = BTreeSet::new();
    leaves(&schema, "", &mut names);
    // For charts that depend on this one: what Helm hands down, and what a condition reads.
    assert!(names.remove("/global") && names.remove("/enabled"));
    for optional in [
        "/podMonitor/namespaceSelector/any",
        "/podMonitor/namespaceSelector/matchNames",
    ] {
        assert!(names.remove(optional));
    }
    for name in &names {
        assert!(values.pointer(name).is_some(), "{name} has no default");
    }
    // In tests of their own.
    let elsewhere = [
        "/node/enabled",
        "/node/access",
        "/networkPolicy/enabled",
        "/podMonitor/enabled",
        "/podMonitor/sidecars",
        "/prometheusRule/",
        "/dashboard/enabled",
        "/sidecar/",
    ];
    for name in names {
        let path = name[1..].replace('/', ".");
        let tried = OPTIONS.iter().any(|(tried, ..)| tried.starts_with(&path));
        assert!(
            tried || elsewhere.iter().any(|e| name.starts_with(e)),
            "{name} has no test"
        );
    }
}

#[test]
fn every_value_is_described() {
    let text = read(format!("{CHART}/values.yaml"));
    let (mut described, mut path, mut above) = (BTreeSet::new(), Vec::new(), "");
    for line in text.lines() {
        let name = line.trim_start();
        if let Some((name, _)) = name.split_once(':')
            && !name.starts_with(['#', '-'])
        {
            path.truncate((line.len() - line.trim_start().len()) / 2);
            path.push(name);
            if above.starts_with("# -- ") {
                described.insert(format!("/{}", path.join("/")));
            }
        }
        above = name;
    }
    let schema: Value = serde_json::from_str(&read(format!("{CHART}/values.schema.json"))).unwrap();
    let mut names = BTreeSet::new();
    leaves(&schema, "", &mut names);
    for name in &names {
        let known = described
            .iter()
            .any(|d| name == d || name.starts_with(&format!("{d}/")));
        assert!(
            known || ["/global", "/enabled"].contains(&&**name),
            "{name}"
        );
    }
}

#[test]
fn the_chart_has_the_version_of_the_exporter() {
    let chart = &yaml(&read(format!("{CHART}/Chart.yaml")))[0];
    assert_eq!(
        (&chart["version"], &chart["appVersion"]),
        (&json!(VERSION), &json!(VERSION))
    );
    let page = read("docs/helm.md");
    let version =
        Regex::new(r"(--version|version:|/listen-queue-exporter:) ?([0-9][0-9.]*)").unwrap();
    let versions: Vec<_> = version
        .captures_iter(&page)
        .map(|found| found[2].to_owned())
        .collect();
    assert!(versions.len() >= 5 && versions.iter().all(|version| version == VERSION));
}

#[test]
fn make_chart_packages_it() {
    let place = tempfile::tempdir().unwrap();
    let mut helm = container_tool("helm");
    helm.args(["package", CHART, "--destination"])
        .arg(place.path());
    program::run(helm.current_dir(ROOT));
    let package = place
        .path()
        .join(format!("listen-queue-exporter-{VERSION}.tgz"));
    let rendered = render_chart(package.to_str().unwrap(), &everything());
    assert_eq!(rendered, render_chart(CHART, &everything()));
    let mut helm = container_tool("helm");
    let readme = program::run(helm.args(["show", "readme"]).arg(package));
    assert!(readme.contains("/blob/main/docs/helm.md)"), "{readme}");
}

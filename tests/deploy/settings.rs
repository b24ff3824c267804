//! nginx', gunicorn's and Prometheus' settings, and compose.yaml: accepted by the programs, and their numbers fit together.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use regex_lite::Regex;
use serde_json::{Value, json};

use crate::common::program;
use crate::files::{ROOT, container_tool, read, yaml};
use crate::podman::exporter_image;

const COMPOSE: &str = "deploy/compose/compose.yaml";

fn number(text: &str, pattern: &str) -> u32 {
    let found = Regex::new(pattern).unwrap().captures(text);
    found.unwrap_or_else(|| panic!("{pattern}"))[1]
        .parse()
        .unwrap()
}

#[test]
fn the_numbers_of_nginx_and_gunicorn_fit_together() {
    let nginx = read("deploy/nginx/nginx.conf");
    let gunicorn = read("deploy/gunicorn/gunicorn.conf.py");
    let app = read("deploy/gunicorn/app.py");
    let backlog = number(&gunicorn, r"(?m)^backlog = (\d+)$");
    let workers = number(&gunicorn, r"(?m)^workers = (\d+)$");
    let connections = number(&nginx, r"worker_connections (\d+);");
    let front = number(&nginx, r"listen 8080 backlog=(\d+);");
    let patience = number(&nginx, r"proxy_read_timeout (\d+)s;");
    assert!(connections / 2 > backlog + 1 + workers);
    assert!(number(&nginx, r"worker_rlimit_nofile (\d+);") >= connections);
    assert!(number(&gunicorn, r"(?m)^timeout = (\d+)$") < patience);
    // Requests a worker serves in a second.
    let pace = 1.0 / app_seconds(&app);
    let longest = f64::from(backlog + 1) / (f64::from(workers) * pace);
    assert!(longest < f64::from(patience), "{longest}");

    // As in the comment of nginx.conf.
    for said in [
        format!("listen backlog          {front}"),
        format!("worker_connections      {connections}"),
        format!("gunicorn's backlog      {backlog}"),
        format!("proxy_read_timeout       {patience}s"),
        format!(
            "{} / ({workers} workers / {} s a request) = {longest:.0} s",
            backlog + 1,
            app_seconds(&app)
        ),
    ] {
        assert!(nginx.contains(&said), "{said}");
    }
    // And as configured for the exporter.
    let configured = [
        read(COMPOSE),
        read("deploy/kubernetes/example/exporter.yaml"),
    ];
    for text in configured {
        assert_eq!(
            number(
                &text,
                r"gunicorn=unix:/run/app/gunicorn.socket,backlog=(\d+)"
            ),
            backlog
        );
        assert_eq!(number(&text, r"nginx=tcp::8080,backlog=(\d+)"), front);
    }
    assert!(gunicorn.contains("bind = \"unix:/run/app/gunicorn.socket\"\n"));
    assert!(nginx.contains("proxy_pass http://unix:/run/app/gunicorn.socket;\n"));
}

fn app_seconds(app: &str) -> f64 {
    let found = Regex::new(r#""SERVICE_SECONDS", "([\d.]+)""#).unwrap();
    found.captures(app).unwrap()[1].parse().unwrap()
}

#[test]
fn nginx_and_gunicorn_accept_their_settings() {
    let mut nginx = program::command("nginx");
    let configuration = Path::new(ROOT).join("deploy/nginx/nginx.conf");
    program::run(
        nginx
            .args(["-t", "-q", "-e", "/dev/stderr", "-c"])
            .arg(configuration),
    );
    let mut gunicorn = program::command("gunicorn");
    gunicorn.args([
        "--check-config",
        "--config",
        "gunicorn.conf.py",
        "app:application",
    ]);
    program::run(gunicorn.current_dir(Path::new(ROOT).join("deploy/gunicorn")));
}

#[test]
fn compose_follows_its_schema_and_what_it_mounts_is_there() {
    let mut check = container_tool("check-jsonschema");
    check.args(["--builtin-schema", "vendor.compose-spec", COMPOSE]);
    program::run(check.current_dir(ROOT));
    let compose = &yaml(&read(COMPOSE))[0];
    let services = compose["services"].as_object().unwrap();
    for port in services
        .values()
        .filter_map(|s| s["ports"].as_array())
        .flatten()
    {
        // The address that README uses, which other machines cannot reach.
        assert!(port.as_str().unwrap().starts_with("127.0.0.1:"), "{port}");
    }
    for (name, service) in services {
        for volume in service["volumes"].as_array().unwrap() {
            let source = volume.as_str().unwrap().split(':').next().unwrap();
            if source.starts_with('.') {
                let path = Path::new(ROOT).join("deploy/compose").join(source);
                assert!(path.exists(), "{name} mounts {source}");
            } else {
                assert!(
                    compose["volumes"].get(source).is_some(),
                    "{name} mounts {source}"
                );
            }
        }
    }
    let exporter = &services["listen-queue-exporter"];
    assert_eq!(exporter["image"], exporter_image());
    assert_eq!(exporter["read_only"], true);
    assert_eq!(exporter["cap_drop"], json!(["ALL"]));
    for name in ["gunicorn", "listen-queue-exporter"] {
        assert_eq!(
            services[name]["network_mode"], "service:nginx",
            "one network namespace"
        );
    }
    assert_eq!(
        services["nginx"]["sysctls"]["net.core.somaxconn"],
        "${SOMAXCONN:-4096}"
    );
    let provisioned = &yaml(&read("grafana/provisioning/datasources/prometheus.yaml"))[0];
    assert_eq!(
        provisioned["datasources"][0]["url"],
        "http://prometheus:9090"
    );
    assert!(services.contains_key("prometheus"));
    assert_eq!(images(compose), images_of_the_kubernetes_example());
}

/// nginx' and Python's, with gunicorn's release.
fn images(compose: &Value) -> [String; 3] {
    let inline = compose.pointer("/services/gunicorn/build/dockerfile_inline");
    let inline = inline.unwrap().as_str().unwrap();
    let from = inline
        .lines()
        .next()
        .unwrap()
        .strip_prefix("FROM ")
        .unwrap();
    let nginx = compose["services"]["nginx"]["image"].as_str().unwrap();
    [nginx.to_owned(), from.to_owned(), gunicorn_release(inline)]
}

fn images_of_the_kubernetes_example() -> [String; 3] {
    let text = read("deploy/kubernetes/example/deployment.yaml");
    let spec = &yaml(&text)[0]["spec"]["template"]["spec"];
    let image = |index: usize| {
        spec["containers"][index]["image"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    [image(1), image(0), gunicorn_release(&text)]
}

fn gunicorn_release(text: &str) -> String {
    Regex::new(r"gunicorn==[\d.]+")
        .unwrap()
        .find(text)
        .unwrap()
        .as_str()
        .to_owned()
}

#[test]
fn prometheus_accepts_the_compose_files_settings() {
    // As in the container: rules.yaml beside prometheus.yaml.
    let directory = tempfile::tempdir().unwrap();
    for path in [
        "deploy/compose/prometheus.yaml",
        "deploy/prometheus/rules.yaml",
    ] {
        let name = Path::new(path).file_name().unwrap();
        fs::copy(Path::new(ROOT).join(path), directory.path().join(name)).unwrap();
    }
    let mut promtool = program::command("promtool");
    promtool.args(["check", "config"]);
    program::run(promtool.arg(directory.path().join("prometheus.yaml")));
}

#[test]
fn yamllint_finds_no_mistake_in_any_yaml() {
    let mut git = Command::new("git");
    let listed = program::run(git.args(["ls-files", "*.yaml", "*.yml"]).current_dir(ROOT));
    // What the templates of the chart become is validated in helm.rs.
    let listed = listed.lines().filter(|file| !file.contains("/templates/"));
    let files: Vec<PathBuf> = listed.map(PathBuf::from).collect();
    assert!(files.len() > 10);
    assert!(
        files
            .iter()
            .all(|f| !f.components().any(|c| c == Component::ParentDir))
    );
    let mut yamllint = container_tool("yamllint");
    // What is a mistake, and not a matter of taste.
    let rules = "{rules: {key-duplicates: enable, trailing-spaces: enable, new-line-at-end-of-file: enable, indentation: {spaces: consistent}}}";
    yamllint.args(["--strict", "--config-data", rules]);
    program::run(yamllint.args(files).current_dir(ROOT));
}

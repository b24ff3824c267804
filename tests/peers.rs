//! The comparison with other tools: its shortest form, and that the page shows what the command writes.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn peers(arguments: &[&str]) -> String {
    let output = Command::new("python3")
        .arg(format!("{ROOT}/tests/peers/peers.py"))
        .args(["--exporter", env!("CARGO_BIN_EXE_listen-queue-exporter")])
        .args(arguments)
        .output()
        .expect("python3 is missing: tests/install.sh base");
    let (shown, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    println!("{shown}{errors}");
    assert!(output.status.success());
    shown.into_owned()
}

#[test]
fn the_exporter_reports_the_peak_of_a_burst_between_two_runs_of_ss_that_show_an_empty_queue() {
    let shown = peers(&["--short"]);
    assert_eq!(shown.matches("  ok: ").count(), 3);
    assert!(shown.contains("ss before and after it {'depth': 0, 'limit': 40, 'full': False}"));
}

/// Three programs, and how often others than the one whose turn it is are not stopped.
const TURNS: &str = "
import pathlib, subprocess, sys
sys.path.insert(0, sys.argv[1])
from processes import in_turn

class Contestant:
    def __init__(self):
        self.child = subprocess.Popen(['sleep', '60'])
    def pids(self):
        return [self.child.pid]
    def is_stopped(self):
        return pathlib.Path(f'/proc/{self.child.pid}/stat').read_text().rpartition(')')[2].split()[0] == 'T'

contestants = [Contestant() for _ in range(3)]
turns = [(contestants.index(one), [other.is_stopped() for other in contestants]) for one in in_turn(contestants, 2, 0)]
for one in contestants:
    one.child.kill()
print(turns == [(who, [other != who for other in range(3)]) for who in (0, 1, 2, 1, 2, 0)])
";

#[test]
fn from_the_first_window_on_one_program_runs_and_the_others_are_stopped() {
    let output = Command::new("python3")
        .args(["-c", TURNS, &format!("{ROOT}/tests/peers")])
        .output()
        .expect("python3 is missing: tests/install.sh base");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "True\n",
        "{output:?}"
    );
}

#[test]
fn the_readme_and_the_page_name_ss_with_the_options_that_were_measured() {
    let read = |file: &str| std::fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
    let tools = read("tests/peers/tools.py");
    let (_, rest) = tools.split_once("command = (\"ss\", \"").unwrap();
    let (options, _) = rest.split_once('"').unwrap();
    // Without headings, and a row on one line.
    let name = format!("`ss {}`", options.strip_suffix("HO").unwrap());
    for file in ["README.md", "docs/performance.md"] {
        let text = read(file);
        assert!(text.contains(&name), "{file}: {name}");
        assert_eq!(
            text.matches("`ss -").count(),
            text.matches(&name).count(),
            "{file}"
        );
    }
}

#[test]
fn the_tables_of_the_page_are_those_of_the_command() {
    let tables: Value = serde_json::from_str(&peers(&["--shape"])).unwrap();
    let page = std::fs::read_to_string(Path::new(ROOT).join("docs/performance.md")).unwrap();
    let tables = tables.as_object().unwrap();
    for (key, shape) in tables {
        let (_, rest) = page.split_once(&format!("<!-- {key} -->\n")).unwrap();
        let (section, _) = rest.split_once(&format!("<!-- /{key} -->")).unwrap();
        let rows: Vec<Vec<&str>> = section
            .lines()
            .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
            .map(|line| line.split(" | ").collect())
            .collect();
        let strings = |name: &str| -> Vec<&str> {
            let values = shape[name].as_array().unwrap().iter();
            values.map(|value| value.as_str().unwrap()).collect()
        };
        let headings = strings("headings");
        assert_eq!(rows[0], headings, "{key}");
        let names: Vec<&str> = rows[2..].iter().map(|row| row[0]).collect();
        assert_eq!(names, strings("rows"), "{key}");
        for row in &rows {
            assert_eq!(row.len(), headings.len(), "{key}: {row:?}");
            let is_filled = row[1..].iter().all(|cell| !cell.is_empty());
            assert!(is_filled, "{key}: {row:?}");
        }
    }
    let sections = page.lines().filter(|line| line.starts_with("<!-- /"));
    assert_eq!(sections.count(), tables.len() + 1, "and the machine");
    assert!(page.contains("Measured on ") && page.contains("with `make bench-peers`"));
}

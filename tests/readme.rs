//! README's tables of metrics and flags are those of the code. `UPDATE=1` writes them anew.

use std::fmt::Write as _;
use std::fs;

use clap::{Arg, CommandFactory};
use listen_queue_exporter::cli::{ENVIRONMENT_PREFIX, Flags, PORT};
use listen_queue_exporter::metrics::TABLE;
use listen_queue_exporter::refusals::UNKNOWN_NAMES;

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");

#[test]
fn readme_has_the_table_of_metrics() {
    let mut table =
        "| metric | type | labels | when | meaning |\n|---|---|---|---|---|\n".to_owned();
    for metric in TABLE {
        let (kind, labels) = (metric.kind.name(), metric.labels.join(", "));
        let (name, when, help) = (metric.name, metric.when, metric.help);
        writeln!(table, "| `{name}` | {kind} | {labels} | {when} | {help} |").unwrap();
    }
    section_is("metrics", &table);
}

#[test]
fn readme_has_the_table_of_flags() {
    let command = Flags::command();
    section_is("flags", &flags(command.get_arguments()));
    let shared = |argument: &&Arg| {
        let mut others = command.get_arguments();
        others.any(|other| other.get_long() == argument.get_long())
    };
    let check = command.find_subcommand("check").unwrap();
    let own = check.get_arguments().filter(|argument| !shared(argument));
    section_is("check-flags", &flags(own));
}

fn flags<'a>(arguments: impl Iterator<Item = &'a Arg>) -> String {
    let mut table = "| flag | default | meaning |\n|---|---|---|\n".to_owned();
    for argument in arguments {
        let Some(flag) = argument.get_long() else {
            continue;
        };
        let value = argument.get_value_names().unwrap_or_default();
        let takes_value = argument.get_action().takes_values();
        let value = value.first().filter(|_| takes_value);
        let value = value.map(|name| format!(" {name}"));
        let default = argument
            .get_default_values()
            .first()
            .filter(|_| takes_value);
        let default = default.map(|default| format!("`{}`", default.display()));
        let help = argument.get_long_help().or(argument.get_help()).unwrap();
        writeln!(
            table,
            "| `--{flag}{}` | {} | {} |",
            value.unwrap_or_default(),
            default.unwrap_or_default(),
            help.to_string().replace('\n', " ").replace('|', "\\|"),
        )
        .unwrap();
    }
    table
}

#[test]
fn readme_names_the_port_and_the_environment_as_the_code_does() {
    let readme = fs::read_to_string(README).unwrap();
    assert!(readme.contains(&format!("http://localhost:{PORT}/metrics")));
    assert!(readme.contains(&format!("`{ENVIRONMENT_PREFIX}`")));
}

#[test]
fn readme_says_how_many_addresses_of_refused_connects_are_kept() {
    let readme = fs::read_to_string(README).unwrap();
    let program = include_str!("../src/refusals/unix_connect.bpf.c");
    let (_, rest) = program.split_once("#define ADDRESSES ").unwrap();
    let kept = rest.lines().next().unwrap();
    assert!(readme.contains(&format!("The hook keeps {kept} addresses")));
    assert!(readme.contains(&format!("own `listener`, up to {UNKNOWN_NAMES}")));
}

/// Compares what stands between `<!-- name -->` and `<!-- /name -->`.
fn section_is(name: &str, expected: &str) {
    let readme = fs::read_to_string(README).unwrap();
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (before, rest) = readme.split_once(&begin).unwrap();
    let (section, after) = rest.split_once(&end).unwrap();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(README, format!("{before}{begin}{expected}{end}{after}")).unwrap();
        return;
    }
    assert_eq!(
        section, expected,
        "README's {name} differ from the code's: UPDATE=1 cargo test --test readme -- --test-threads 1"
    );
}

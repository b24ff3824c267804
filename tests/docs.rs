//! The tables of metrics and flags in docs/ are those of the code (`UPDATE=1` writes them anew), and links in the documentation lead somewhere.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use clap::{Arg, CommandFactory};
use listen_queue_exporter::check::servers::{Backlog, SERVERS, Server};
use listen_queue_exporter::cli::{ENVIRONMENT_PREFIX, Flags, PORT};
use listen_queue_exporter::metrics::TABLE;
use listen_queue_exporter::refusals::UNKNOWN_NAMES;
use listen_queue_exporter::sample::Absence;
use regex_lite::Regex;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn the_metrics_reference_is_that_of_the_code() {
    let mut reference = String::new();
    for metric in TABLE {
        let kind = metric.kind.name();
        let labels = match metric.labels {
            [] => String::new(),
            labels => format!(" by `{}`", labels.join("`, `")),
        };
        let when = match metric.when {
            "always" => "always present".to_owned(),
            when => format!("present if {when}"),
        };
        let (name, help) = (metric.name, metric.help);
        writeln!(
            reference,
            "\n### {name}\n\n**{kind}{labels}, {when}.** {help}"
        )
        .unwrap();
    }
    reference.push('\n');
    section_is("docs/metrics.md", "metrics", &reference);
}

#[test]
fn the_flags_reference_is_that_of_the_code() {
    let command = Flags::command();
    section_is(
        "docs/configuration.md",
        "flags",
        &flags(command.get_arguments()),
    );
    let shared = |argument: &&Arg| {
        let mut others = command.get_arguments();
        others.any(|other| other.get_long() == argument.get_long())
    };
    let check = command.find_subcommand("check").unwrap();
    let own = check.get_arguments().filter(|argument| !shared(argument));
    section_is("docs/check.md", "check-flags", &flags(own));
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
        let default = default.map(|default| format!("`{}`", default.display()).replace('|', "\\|"));
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
fn the_table_of_servers_is_that_of_the_code() {
    let mut table = "| server | asks for | set by |\n|---|---|---|\n".to_owned();
    for server in SERVERS {
        let asks = match server.backlog {
            Backlog::Fixed(backlog) => backlog.to_string(),
            Backlog::As(what) => what.to_owned(),
        };
        let Server {
            name,
            setting,
            source,
            ..
        } = server;
        writeln!(table, "| [{name}]({source}) | {asks} | `{setting}` |").unwrap();
    }
    section_is("docs/check.md", "servers", &table);
}

#[test]
fn the_page_on_502s_quotes_check_word_by_word() {
    let page = read("docs/502.md");
    let (_, rest) = page.split_once("<!-- findings -->\n").unwrap();
    let (table, _) = rest.split_once("<!-- /findings -->").unwrap();
    let sources = ["src/check/diagnosis.rs", "src/report.rs", "src/sample.rs"].map(read);
    let quote = Regex::new("`([^`]+)`").unwrap();
    let mut quotes = 0;
    for row in table.lines().skip(2) {
        let finding = row.split('|').nth(1).unwrap();
        for quoted in quote.captures_iter(finding) {
            // A number stands where the page has an ellipsis.
            for words in quoted.get(1).unwrap().as_str().split('…') {
                let is_there = sources.iter().any(|source| source.contains(words.trim()));
                assert!(is_there, "check never says: {words}");
            }
            quotes += 1;
        }
    }
    assert!(quotes > 10, "{quotes}");
}

#[test]
fn the_port_and_the_environment_are_named_as_in_the_code() {
    assert!(read("README.md").contains(&format!("http://localhost:{PORT}/")));
    assert!(read("docs/configuration.md").contains(&format!("`{ENVIRONMENT_PREFIX}`")));
}

#[test]
fn the_page_on_refused_connects_says_how_many_addresses_are_kept() {
    let page = read("docs/refused-connects.md");
    let program = include_str!("../src/refusals/unix_connect.bpf.c");
    let (_, rest) = program.split_once("#define ADDRESSES ").unwrap();
    let kept = rest.lines().next().unwrap();
    assert!(page.contains(&format!("The hook keeps {kept} addresses")));
    assert!(page.contains(&format!("own `listener`, up to {UNKNOWN_NAMES}")));
}

#[test]
fn the_runbook_of_missing_listeners_explains_every_reason_of_the_log() {
    let runbook = read("deploy/prometheus/runbooks/ListenQueueListenerMissing.md");
    let row = Regex::new(r"(?m)^\| `([^`…]+)…?` \|").unwrap();
    let explained: Vec<&str> = row
        .captures_iter(&runbook)
        .map(|row| row.get(1).unwrap().as_str())
        .filter(|text| *text != "reason")
        .collect();
    let reasons = [
        Absence::NotListening,
        Absence::OtherAddress("[::]:80".parse().unwrap()),
        Absence::NotASocket,
        Absence::NoListenerOfFile,
        Absence::NotInTable,
        Absence::Unreadable("/run".into()),
        Absence::Failed("an error".to_owned()),
    ]
    .map(|reason| reason.to_string());
    assert_eq!(explained.len(), reasons.len());
    for (text, reason) in explained.iter().zip(&reasons) {
        assert!(reason.starts_with(text), "{text}: {reason}");
    }
}

#[test]
fn pages_are_short_listed_and_say_first_what_they_are_for() {
    let (index, contents) = (read("docs/index.md"), read("docs/SUMMARY.md"));
    for page in pages() {
        let text = read(&format!("docs/{page}"));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() < 250, "{page} has {} lines", lines.len());
        assert!(lines[0].starts_with("# "), "{page}");
        assert!(
            lines[2].starts_with(|c: char| c.is_ascii_uppercase()),
            "{page} opens with a sentence"
        );
        let is_listed = page == "index.md" || index.contains(&format!("({page})"));
        assert!(is_listed, "docs/index.md has no link to {page}");
        assert!(
            contents.contains(&format!("({page})")),
            "docs/SUMMARY.md does not list {page}"
        );
    }
    assert!(read("README.md").lines().count() <= 150);
}

#[test]
fn links_lead_to_files_and_headings_that_exist() {
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let mut checked = 0;
    let runbooks = fs::read_dir(Path::new(ROOT).join("deploy/prometheus/runbooks")).unwrap();
    let runbooks = runbooks.map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        format!("deploy/prometheus/runbooks/{name}")
    });
    let root = ["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(str::to_owned);
    let files = root
        .into_iter()
        .filter(|file| Path::new(ROOT).join(file).exists());
    let docs = pages().into_iter().map(|page| format!("docs/{page}"));
    for file in files.chain(docs).chain(runbooks) {
        let text = read(&file);
        for target in link
            .captures_iter(&text)
            .map(|c| c.get(1).unwrap().as_str())
        {
            if target.starts_with("http://") || target.starts_with("https://") {
                continue;
            }
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let folder = Path::new(ROOT).join(&file);
            let linked = match path {
                "" => folder.clone(),
                _ => folder.parent().unwrap().join(path),
            };
            assert!(linked.exists(), "{file} links to {target}");
            if !heading.is_empty() {
                let text = fs::read_to_string(&linked).unwrap();
                let found = text.lines().any(|line| is_anchor_of(line, heading));
                assert!(found, "{file} links to {target}");
            }
            checked += 1;
        }
    }
    assert!(checked > 20);
}

/// Whether a line is the heading that GitHub and mdBook give this anchor.
fn is_anchor_of(line: &str, anchor: &str) -> bool {
    let Some(heading) = line.strip_prefix('#') else {
        return false;
    };
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    let id: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
    id == anchor
}

/// The pages in docs/, but for the table of contents of the site.
fn pages() -> Vec<String> {
    let entries = fs::read_dir(Path::new(ROOT).join("docs")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let pages = paths.filter(|path| path.extension() == Some("md".as_ref()));
    let names = pages.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
    names.filter(|name| name != "SUMMARY.md").collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

/// Compares what stands between `<!-- name -->` and `<!-- /name -->` of a page.
fn section_is(page: &str, name: &str, expected: &str) {
    let text = read(page);
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (before, rest) = text.split_once(&begin).unwrap();
    let (section, after) = rest.split_once(&end).unwrap();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(
            Path::new(ROOT).join(page),
            format!("{before}{begin}{expected}{end}{after}"),
        )
        .unwrap();
        return;
    }
    assert_eq!(
        section, expected,
        "{page} differs from the code: UPDATE=1 cargo test --test docs"
    );
}

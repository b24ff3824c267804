//! The Prometheus text format 0.0.4, read strictly: what a lenient reader would let pass fails the test.

use std::collections::{BTreeMap, BTreeSet};

/// Label names and values.
pub(crate) type Labels = BTreeMap<String, String>;

/// One scrape.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// Type by name.
    pub(crate) families: BTreeMap<String, String>,
    pub(crate) series: BTreeMap<(String, Labels), f64>,
}

/// What the page says of one listener's queue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Queue {
    pub(crate) sockets: f64,
    pub(crate) depth: f64,
    pub(crate) backlog: f64,
    pub(crate) capacity: f64,
}

impl Queue {
    /// Of one socket.
    pub(crate) fn of(depth: u32, backlog: u32) -> Option<Self> {
        Self::of_group(1, depth, backlog, backlog + 1)
    }

    #[expect(
        clippy::unnecessary_wraps,
        reason = "compared with what a page shows, or does not"
    )]
    pub(crate) fn of_group(sockets: u32, depth: u32, backlog: u32, capacity: u32) -> Option<Self> {
        Some(Self {
            sockets: sockets.into(),
            depth: depth.into(),
            backlog: backlog.into(),
            capacity: capacity.into(),
        })
    }
}

impl Page {
    /// The value of the one series of this name that has no label.
    pub(crate) fn get(&self, name: &str) -> Option<f64> {
        self.labelled(name, &[])
    }

    /// The value of the series with exactly these labels.
    pub(crate) fn labelled(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        self.series
            .get(&(name.to_owned(), labels.collect()))
            .copied()
    }

    /// The value of the series with the label `listener` and no other.
    pub(crate) fn of(&self, name: &str, listener: &str) -> Option<f64> {
        self.labelled(name, &[("listener", listener)])
    }

    /// The queue of a listener that is there. It is there in all its figures or in none.
    pub(crate) fn queue(&self, listener: &str) -> Option<Queue> {
        let figures = ["listener_sockets", "depth", "backlog", "capacity"]
            .map(|name| self.of(&format!("listen_queue_{name}"), listener));
        let up = self.of("listen_queue_listener_up", listener);
        if let [Some(sockets), Some(depth), Some(backlog), Some(capacity)] = figures {
            assert_eq!(up, Some(1.0), "{listener} has a queue");
            return Some(Queue {
                sockets,
                depth,
                backlog,
                capacity,
            });
        }
        assert_eq!(figures, [None; 4], "{listener} has all figures or none");
        assert!(up.is_none_or(|up| up.to_bits() == 0), "{listener} is up");
        None
    }

    /// Observations of a histogram of a listener that are at most `le`.
    pub(crate) fn bucket(&self, name: &str, listener: &str, le: &str) -> Option<f64> {
        let name = format!("{name}_bucket");
        self.labelled(&name, &[("listener", listener), ("le", le)])
    }

    /// How many series a listener has, or those without a listener.
    pub(crate) fn count(&self, listener: Option<&str>) -> usize {
        let series = self.series.keys();
        let of =
            series.filter(|(_, labels)| labels.get("listener").map(String::as_str) == listener);
        of.count()
    }

    /// Every label of the listeners that the page knows.
    pub(crate) fn listeners(&self) -> BTreeSet<&str> {
        let series = self.series.keys();
        series
            .filter(|(name, _)| name == "listen_queue_listener_info")
            .filter_map(|(_, labels)| labels.get("listener"))
            .map(String::as_str)
            .collect()
    }

    /// # Errors
    /// Says which line is wrong and why.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut page = Self::default();
        let mut family = None;
        if !text.ends_with('\n') {
            return Err("the last line has no end".to_owned());
        }
        for line in text.split_terminator('\n') {
            page.take(line, &mut family)
                .map_err(|error| format!("{error}, in line {line:?}"))?;
        }
        for (name, kind) in &page.families {
            if kind == "histogram" {
                page.check_histogram(name)?;
            }
        }
        Ok(page)
    }

    fn take(&mut self, line: &str, family: &mut Option<Family>) -> Result<(), String> {
        if line.chars().any(char::is_control) {
            return Err("control character".to_owned());
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or("no help text")?;
            if family.as_ref().is_some_and(|family| family.kind.is_none()) {
                return Err("the family before has no type".to_owned());
            }
            if help.trim().is_empty() || self.families.contains_key(name) {
                return Err("help is empty or the family's second".to_owned());
            }
            *family = Some(Family {
                name: check_name(name)?.to_owned(),
                kind: None,
            });
            return Ok(());
        }
        let family = family.as_mut().ok_or("no family yet")?;
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or("no type")?;
            if name != family.name || family.kind.is_some() {
                return Err("the type is not of the help above it".to_owned());
            }
            if !["counter", "gauge", "histogram"].contains(&kind) {
                return Err("unknown type".to_owned());
            }
            family.kind = Some(kind.to_owned());
            self.families.insert(name.to_owned(), kind.to_owned());
            return Ok(());
        }
        let kind = family.kind.as_deref().ok_or("a sample before its type")?;
        let (name, labels, value) = parse_sample(line)?;
        let suffix = name.strip_prefix(&family.name).unwrap_or("?");
        let belongs = match kind {
            "histogram" => {
                suffix == "_bucket" && labels.contains_key("le")
                    || (suffix == "_sum" || suffix == "_count") && !labels.contains_key("le")
            }
            _ => suffix.is_empty() && !labels.contains_key("le"),
        };
        if !belongs {
            return Err(format!("not a sample of {} {}", kind, family.name));
        }
        if kind != "gauge" && (value < 0.0 || !value.is_finite()) {
            return Err("a count that cannot be".to_owned());
        }
        if self.series.insert((name, labels), value).is_some() {
            return Err("a second series of the same name and labels".to_owned());
        }
        Ok(())
    }

    /// Buckets rise with their bounds, the last is unbounded and equals the count.
    fn check_histogram(&self, family: &str) -> Result<(), String> {
        let mut histograms: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
        let bucket = format!("{family}_bucket");
        for ((name, labels), value) in &self.series {
            if *name == bucket {
                let mut labels = labels.clone();
                let le = labels.remove("le").ok_or("a bucket without le")?;
                let buckets = histograms.entry(labels).or_default();
                buckets.push((parse_value(&le)?, *value));
            }
        }
        for (labels, mut buckets) in histograms {
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            let rises = buckets
                .windows(2)
                .all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1);
            let last = buckets.last().filter(|(le, _)| *le == f64::INFINITY);
            let count = self
                .series
                .get(&(format!("{family}_count"), labels.clone()));
            let sum = self
                .series
                .contains_key(&(format!("{family}_sum"), labels.clone()));
            if !rises || !sum || last.map(|(_, count)| count) != count || count.is_none() {
                return Err(format!("histogram {family}{labels:?} is not consistent"));
            }
        }
        Ok(())
    }
}

struct Family {
    name: String,
    kind: Option<String>,
}

fn check_name(name: &str) -> Result<&str, String> {
    let good = |(i, c): (usize, char)| {
        c.is_ascii_alphabetic() || "_:".contains(c) || i > 0 && c.is_ascii_digit()
    };
    if !name.is_empty() && name.chars().enumerate().all(good) {
        Ok(name)
    } else {
        Err(format!("bad name {name:?}"))
    }
}

fn parse_sample(line: &str) -> Result<(String, Labels, f64), String> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let name = check_name(&line[..end])?.to_owned();
    let mut labels = Labels::new();
    let mut rest = &line[end..];
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, value) = rest.split_once("=\"").ok_or("no label value")?;
            let (value, after) = unquote(value)?;
            if labels
                .insert(check_name(label)?.to_owned(), value)
                .is_some()
            {
                return Err(format!("label {label} twice"));
            }
            if let Some(after) = after.strip_prefix('}') {
                rest = after;
                break;
            }
            rest = after.strip_prefix(',').ok_or("labels without a comma")?;
        }
    }
    let value = rest.strip_prefix(' ').ok_or("no value")?;
    Ok((name, labels, parse_value(value)?))
}

/// The text up to the closing quote, without its escapes, and what follows.
fn unquote(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((index, character)) = characters.next() {
        value.push(match character {
            '"' => return Ok((value, &text[index + 1..])),
            '\\' => match characters.next() {
                Some((_, '\\')) => '\\',
                Some((_, '"')) => '"',
                Some((_, 'n')) => '\n',
                other => return Err(format!("bad escape {other:?}")),
            },
            other => other,
        });
    }
    Err("no closing quote".to_owned())
}

fn parse_value(text: &str) -> Result<f64, String> {
    match text {
        "+Inf" => Ok(f64::INFINITY),
        "-Inf" => Ok(f64::NEG_INFINITY),
        "NaN" => Ok(f64::NAN),
        _ if text.starts_with(|c: char| c.is_ascii_digit() || c == '-') => {
            text.parse().map_err(|_| format!("bad value {text:?}"))
        }
        _ => Err(format!("bad value {text:?}")),
    }
}

#[test]
fn the_reader_refuses_what_prometheus_refuses() {
    let head = "# HELP a_total Text.\n# TYPE a_total counter\n";
    let page = Page::parse(&format!("{head}a_total{{l=\"x\\n\\\"\\\\\"}} 1\n")).unwrap();
    assert_eq!(page.labelled("a_total", &[("l", "x\n\"\\")]), Some(1.0));
    for bad in [
        "a_total 1",
        "a_total 1\na_total 1\n",
        "a_total{l=\"\\x\"} 1\n",
        "a_total{l=\"1\",l=\"2\"} 1\n",
        "a_total{l=\"1\" 1\n",
        "a_total -1\n",
        "a_total inf\n",
        "b_total 1\n",
        "a_total{le=\"1\"} 1\n",
        "# TYPE a_total gauge\n",
        "# HELP a_total Again.\n",
        "# HELP b Text.\nb 1\n",
    ] {
        assert!(Page::parse(&format!("{head}{bad}")).is_err(), "{bad}");
    }
    let histogram = |rows: &str| {
        Page::parse(&format!("# HELP h Text.\n# TYPE h histogram\n{rows}")).map(|_| ())
    };
    assert_eq!(
        histogram("h_bucket{le=\"+Inf\"} 2\nh_sum 1\nh_count 2\n"),
        Ok(())
    );
    assert!(histogram("h_bucket{le=\"+Inf\"} 2\nh_sum 1\nh_count 3\n").is_err());
    assert!(histogram("h_bucket{le=\"1\"} 2\nh_sum 1\nh_count 2\n").is_err());
}

//! The table on the terminal, and the same in files.

use std::fmt::Write as _;
use std::path::Path;

#[derive(Debug, Default)]
pub(crate) struct Report {
    text: String,
    rows: Vec<Vec<String>>,
    figures: Vec<(String, f64)>,
    bars: Vec<(String, bool, String)>,
}

impl Report {
    /// Begins a table.
    pub(crate) fn section(&mut self, title: &str) {
        self.end_table();
        self.print(&format!("\n{title}\n"));
    }

    /// A row of the table; the first is the heading.
    pub(crate) fn row(&mut self, cells: &[&str]) {
        self.rows
            .push(cells.iter().map(|cell| (*cell).to_owned()).collect());
    }

    /// A number for the JSON file.
    pub(crate) fn figure(&mut self, name: &str, value: f64) {
        self.figures.push((name.to_owned(), value));
    }

    /// What the project promises of a figure, and whether it holds.
    pub(crate) fn bar(&mut self, promise: &str, holds: bool, measured: &str) {
        self.bars
            .push((promise.to_owned(), holds, measured.to_owned()));
    }

    /// Prints the bars and writes `bench.txt` and `bench.json`. Exits with 1 when a bar does not hold.
    pub(crate) fn finish(mut self, directory: &Path) {
        self.section("Bars");
        self.row(&["bar", "measured", "holds"]);
        for (promise, holds, measured) in std::mem::take(&mut self.bars) {
            self.row(&[&promise, &measured, if holds { "yes" } else { "NO" }]);
            self.figures
                .push((format!("bar: {promise}"), f64::from(u8::from(holds))));
        }
        let failed = self.rows.iter().any(|row| row[2] == "NO");
        self.end_table();
        let mut json = String::from("{\n");
        for (index, (name, value)) in self.figures.iter().enumerate() {
            let comma = if index == 0 { "" } else { ",\n" };
            write!(json, "{comma}  {name:?}: {value}").expect("a string");
        }
        json.push_str("\n}\n");
        std::fs::write(directory.join("bench.txt"), &self.text).expect("bench.txt");
        std::fs::write(directory.join("bench.json"), json).expect("bench.json");
        if failed {
            std::process::exit(1);
        }
    }

    fn end_table(&mut self) {
        let rows = std::mem::take(&mut self.rows);
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut table = String::new();
        for row in &rows {
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                let padded = if column == 0 {
                    format!("  {cell:<width$}")
                } else {
                    format!("  {cell:>width$}")
                };
                table.push_str(&padded);
            }
            table.push('\n');
        }
        self.print(&table);
    }

    fn print(&mut self, text: &str) {
        print!("{text}");
        self.text.push_str(text);
    }
}

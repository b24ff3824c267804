//! Writes the manual pages, and the completions of bash, zsh and fish, into a directory: all of them are made from the table of flags.
//!
//! ```sh
//! cargo run --example manual -- DIRECTORY
//! ```

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs, io};

use clap::{Arg, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use listen_queue_exporter::cli::Flags;

const NAME: &str = "listen-queue-exporter";
/// A longer default does not fit into the heading of its flag.
const LONGEST_DEFAULT: usize = 40;

fn main() -> ExitCode {
    let Some(directory) = env::args_os().nth(1) else {
        eprintln!("usage: cargo run --example manual -- DIRECTORY");
        return ExitCode::from(2);
    };
    match write(Path::new(&directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let directory = Path::new(&directory).display();
            eprintln!("cannot write to {directory}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Makes the directory if it is missing.
pub(crate) fn write(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Flags::command(), NAME, directory)?;
    }
    let mut command = Flags::command().disable_help_subcommand(true);
    command.build();
    let fish = directory.join(format!("{NAME}.fish"));
    let script = without_argparse(&fs::read_to_string(&fish)?, &command)?;
    fs::write(fish, script)?;
    for page in std::iter::once(&command).chain(command.get_subcommands()) {
        let page = page.clone().mut_args(move_long_default);
        let name = page.get_display_name().unwrap_or(NAME).to_owned();
        fs::write(directory.join(format!("{name}.1")), render(page)?)?;
    }
    Ok(())
}

/// Replaces the conditions of the completions for fish: its argparse knows no flag with a dot. A subcommand can only be the first word.
fn without_argparse(script: &str, command: &Command) -> io::Result<String> {
    let conditions = script.split_once("\ncomplete ");
    let (_, completions) = conditions.ok_or(io::ErrorKind::InvalidData)?;
    let function = format!("function __fish_{}", NAME.replace('-', "_"));
    let subcommands = command.get_subcommands().map(Command::get_name);
    let subcommands: Vec<_> = subcommands.chain(["help"]).collect();
    Ok(format!(
        "{function}_needs_command
    set -l words (commandline -opc)
    not contains -- \"$words[2]\" {}
end

{function}_using_subcommand
    set -l words (commandline -opc)
    test \"$words[2]\" = \"$argv[1]\"
end

complete {completions}",
        subcommands.join(" ")
    ))
}

fn render(command: Command) -> io::Result<String> {
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    let page = String::from_utf8(page).map_err(io::Error::other)?;
    // Names of flags are neither broken nor spaced out: the first two lines are for groff 1.23, the others for older ones. A regular expression is broken
    // after a bar.
    let page = page
        .replacen(".TH ", ".ds AD l\n.nr HY 0\n.TH ", 1)
        .replacen(".SH NAME\n", ".nh\n.ad l\n.SH NAME\n", 1);
    Ok(page.replace('|', "|\\:"))
}

/// Moves a long default from the heading of a flag to the end of its text.
fn move_long_default(flag: Arg) -> Arg {
    let default = flag.get_default_values().first();
    let default = default.map(|value| value.to_string_lossy().into_owned());
    let Some(default) = default.filter(|value| value.len() > LONGEST_DEFAULT) else {
        return flag;
    };
    let help = flag.get_long_help().or(flag.get_help());
    let help = help.map(ToString::to_string).unwrap_or_default();
    flag.hide_default_value(true)
        .long_help(format!("{help}. Default: {default}"))
}

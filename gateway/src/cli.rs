//! The command line: what can be asked for, and which exit code answers.
//!
//! Data goes to stdout, remarks and logs to stderr. Exit codes are istioctl's.

mod admin_client;
mod arguments;
mod certs;
mod completion;
mod demo;
mod explain;
mod inputs;
pub(crate) mod output;
mod run;
mod secrets;
mod validate;
mod version;

use std::process::ExitCode;

use clap::builder::styling::{AnsiColor, Styles};
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use output::{ColorWhen, Console};

const EXAMPLES: &str = "\
Start here:
  tidegate demo                                  an application behind a gateway, to play with
  tidegate run --to 127.0.0.1:3000               port 8080 to one backend, without any YAML
  tidegate run --config ./gateway.d              a folder of Istio YAML, served as you edit it
  tidegate validate -f ./gateway.d               what Istio's webhook would say, with the line
  tidegate explain http://localhost:8080/cart    why a request goes where it goes
  tidegate certs                                 which certificates serve, and for how long

Exit codes are istioctl's: 0 fine, 1 failure, 64 wrong usage, 65 unreadable input, 79 findings.
Colours follow the terminal, NO_COLOR and --color.";

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Cyan.on_default().bold())
    .usage(AnsiColor::Cyan.on_default().bold())
    .literal(AnsiColor::Green.on_default())
    .placeholder(AnsiColor::BrightBlack.on_default());

/// The edge of a mesh in one binary: serves Istio's Gateway, VirtualService, DestinationRule and ServiceEntry YAML.
///
/// Tidegate reads a folder of the resources that Istio users already own, compiles them into one immutable table, and
/// serves it. Edits are picked up as they are saved, without one failed request; a broken edit changes nothing but the
/// object that it breaks.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, styles = STYLES, max_term_width = 110, after_help = EXAMPLES)]
#[command(arg_required_else_help = true, subcommand_required = true, infer_subcommands = true)]
pub(crate) struct Cli {
    /// Colour what people read: auto (on a terminal, unless NO_COLOR is set), always or never.
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t, hide_possible_values = true)]
    #[arg(env = "TIDEGATE_COLOR", hide_env = true, hide_default_value = true, display_order = 1000)]
    color: ColorWhen,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    Run(Box<run::RunArgs>),
    Validate(validate::ValidateArgs),
    Explain(explain::ExplainArgs),
    Certs(certs::CertsArgs),
    Version(version::VersionArgs),
    Completion(completion::CompletionArgs),
}

/// How the process ends. The numbers are istioctl's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Exit {
    Success = 0,
    Failure = 1,
    /// The arguments make no sense.
    Usage = 64,
    /// An input could not be read, or is no YAML or JSON at all.
    Data = 65,
    /// The input was understood, and something in it is wrong.
    Findings = 79,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Names of the variables that are read as options: an error may be about one of them and names the option only.
fn environment() -> Vec<String> {
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    let mut names: Vec<_> = names.filter(|name| name.starts_with("TIDEGATE_")).collect();
    names.sort();
    names
}

/// Parses the arguments, does what they ask for, and turns the outcome into an exit code.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Where nobody reads, there is nobody to tell.
            let _ = error.print();
            let exit = match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Success,
                _ => Exit::Usage,
            };
            let from_environment = environment();
            if exit == Exit::Usage && !from_environment.is_empty() {
                let names = from_environment.join(", ");
                Console::new(ColorWhen::Auto).help(&format!("the environment counts as options too, and has {names}"));
            }
            return exit.into();
        }
    };
    let console = Console::new(cli.color);
    let outcome = match cli.command {
        Command::Demo(args) => demo::run(args, console),
        Command::Run(args) => run::run(*args, console),
        Command::Validate(args) => validate::run(&args, console),
        Command::Explain(args) => explain::run(&args, console),
        Command::Certs(args) => certs::run(&args, console),
        Command::Version(args) => version::run(&args, console),
        Command::Completion(args) => completion::run(&args, console),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) if output::is_broken_pipe(&error) => Exit::Success.into(),
        Err(error) => {
            console.error(&format!("{error:#}"));
            Exit::Failure.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }
}

//! `tidegate completion`: the script that teaches a shell our arguments.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::output::Console;
use super::{Cli, Exit};

const EXAMPLES: &str = "\
Examples:
  source <(tidegate completion bash)                                    in ~/.bashrc
  tidegate completion zsh > \"${fpath[1]}/_tidegate\"
  tidegate completion fish > ~/.config/fish/completions/tidegate.fish
  tidegate completion powershell | Out-String | Invoke-Expression";

/// Print the completion script of a shell.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CompletionArgs {
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &CompletionArgs, console: Console) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tidegate", &mut script);
    console.print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Success)
}

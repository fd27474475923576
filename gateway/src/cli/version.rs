//! `tidegate version`.

use clap::Args;
use serde::Serialize;

use super::Exit;
use super::arguments::OutputFormat;
use super::output::Console;

/// Print the version of this binary.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tidegate version --short\n  tidegate version -o json")]
pub(crate) struct VersionArgs {
    /// The number alone.
    #[arg(long, short)]
    short: bool,
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
}

/// The names of istioctl's `version -o json`, as far as they make sense for one binary.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    client_version: ClientVersion,
}

#[derive(Serialize)]
struct ClientVersion {
    version: &'static str,
    /// Commit that it was built from; `unknown` if the build did not say (`TIDEGATE_GIT_REVISION`).
    revision: &'static str,
    /// `debug` or `release`.
    build: &'static str,
    /// `linux/x86_64`.
    platform: String,
    /// Lowest toolchain that builds it.
    rust: &'static str,
}

pub(crate) fn run(args: &VersionArgs, console: Console) -> anyhow::Result<Exit> {
    let version = ClientVersion {
        version: env!("CARGO_PKG_VERSION"),
        revision: match option_env!("TIDEGATE_GIT_REVISION") {
            Some(revision) if !revision.is_empty() => revision,
            _ => "unknown",
        },
        build: if cfg!(debug_assertions) { "debug" } else { "release" },
        platform: format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
        rust: env!("CARGO_PKG_RUST_VERSION"),
    };
    match args.output {
        OutputFormat::Table if args.short => console.print(&format!("{}\n", version.version))?,
        OutputFormat::Table => {
            let paint = console.paint();
            console.print(&format!(
                "{} {}\n  revision  {}\n  build     {} {}, rust {}\n",
                paint.strong("tidegate"),
                version.version,
                version.revision,
                version.build,
                version.platform,
                version.rust
            ))?;
        }
        OutputFormat::Json => console.print_json(&Version { client_version: version })?,
        OutputFormat::Yaml => console.print_yaml(&Version { client_version: version })?,
    }
    Ok(Exit::Success)
}

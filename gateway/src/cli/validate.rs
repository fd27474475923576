//! `tidegate validate`: what Istio's webhook would say, with the place.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{ArgAction, Args, ValueEnum};
use tidegate_core::{Code, Diagnostic, Level};

use super::Exit;
use super::arguments::{ReadArgs, SecretFolders, namespace};
use super::inputs::{self, Inputs};
use super::output::{ColorWhen, Console};
use crate::control::follow_up;
use crate::render::{Finding, findings_table, istioctl_findings, printable, snippets};
use crate::secrets::judge;

const EXAMPLES: &str = "\
Examples:
  tidegate validate -f routes.yaml
  tidegate validate -f ./gateway.d -x              also what objects say about each other
  tidegate validate -f ./gateway.d -x --secrets ./pairs
  kubectl get vs,gw,dr -A -o yaml | tidegate validate -f -
  tidegate validate -f ./gateway.d -o json | jq '.[].reference'

Exit codes: 0 valid (warnings do not count), 79 something is rejected, 65 an input is unreadable or no YAML,
64 wrong usage. (`istioctl validate` ends with 1 where this ends with 79; `istioctl analyze` with 79 as well.)";

/// Check resources as Istio would, before they serve.
///
/// Every object is decoded strictly (unknown fields are errors, with a did-you-mean) and held against the rules of
/// Istio's admission webhook. Certificates in Secrets are judged as the gateway would before it serves them: what is no
/// PEM, keys that do not fit, chains out of order, certificates that have expired; with -x also those in files that a
/// Gateway or a DestinationRule names, if this machine has them. Kinds that Tidegate does not serve are
/// named and skipped.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, override_usage = "tidegate validate [OPTIONS] [PATH]...")]
pub(crate) struct ValidateArgs {
    /// File, folder (recursive), or `-` for standard input; repeatable.
    #[arg(long, short = 'f', value_name = "PATH", visible_alias = "file")]
    filename: Vec<PathBuf>,
    #[arg(value_name = "PATH", hide = true)]
    paths: Vec<PathBuf>,
    /// Also check what objects say about each other: hosts, subsets, Gateways and Secrets that exist, rules that can be
    /// reached, certificates that are for their hosts.
    #[arg(long, short = 'x', value_name = "BOOL", num_args = 0..=1, require_equals = true, action = ArgAction::Set)]
    #[arg(default_value = "false", default_missing_value = "true", hide_default_value = true)]
    #[arg(hide_possible_values = true)]
    referential: bool,
    /// Namespace of objects that name none.
    #[arg(long, short = 'n', value_name = "NAMESPACE", default_value = "default", value_parser = namespace)]
    default_namespace: String,
    #[arg(long, short, value_enum, default_value_t)]
    output: ValidateFormat,
    #[command(flatten)]
    secrets: SecretFolders,
    #[command(flatten)]
    read: ReadArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
enum ValidateFormat {
    /// `pretty` on a terminal or with --color always, else `plain`.
    #[default]
    Auto,
    /// The lists that istioctl prints.
    Plain,
    /// The lines of the file, the place underlined, the mend below.
    Pretty,
    /// One line a finding.
    Table,
    /// A list of findings; stable.
    Json,
    Yaml,
}

impl ValidateFormat {
    fn resolve(self, console: Console) -> Self {
        match self {
            Self::Auto if console.is_terminal() || console.color() == ColorWhen::Always => Self::Pretty,
            Self::Auto => Self::Plain,
            other => other,
        }
    }
}

pub(crate) fn run(args: &ValidateArgs, console: Console) -> anyhow::Result<Exit> {
    let paths: Vec<PathBuf> = args.filename.iter().chain(&args.paths).cloned().collect();
    if paths.is_empty() {
        console.error("you must specify resources by --filename");
        console.help("for example `-f routes.yaml`, `-f ./gateway.d`, or `-f -` for standard input");
        return Ok(Exit::Usage);
    }
    let options = args.read.options();
    let inputs = inputs::read(&paths, options.mesh_config.as_deref(), &args.default_namespace);
    let mut diagnostics = inputs.diagnostics();
    let (resources, duplicates) = inputs.resources();
    if args.referential {
        diagnostics.extend(duplicates);
        let compilation = inputs::compile(&resources, &options);
        diagnostics.extend(compilation.diagnostics.iter().cloned());
        diagnostics.extend(judge(&resources, Some(&compilation.snapshot), &args.secrets.folders, &options.namespace));
    } else {
        diagnostics.extend(judge(&resources, None, &args.secrets.folders, &options.namespace));
    }
    diagnostics.extend(inputs.unreadable.iter().cloned());
    follow_up(&mut diagnostics);
    // Errors before warnings, and each in the order of the files.
    diagnostics.sort_by(|a, b| b.level.cmp(&a.level).then_with(|| a.origin.cmp(&b.origin)));
    diagnostics.dedup();
    let exit = exit(&diagnostics);
    let shown: Vec<&Diagnostic> = diagnostics.iter().collect();
    match args.output.resolve(console) {
        ValidateFormat::Json => console.print_json(&shown.into_iter().map(Finding::from).collect::<Vec<_>>())?,
        ValidateFormat::Yaml => console.print_yaml(&shown.into_iter().map(Finding::from).collect::<Vec<_>>())?,
        ValidateFormat::Table if shown.is_empty() => console.remark("no findings"),
        ValidateFormat::Table => console.print(&findings_table(&shown, console.paint()))?,
        ValidateFormat::Pretty => print_pretty(inputs, &shown, console)?,
        ValidateFormat::Plain | ValidateFormat::Auto => print_plain(&inputs, &shown, console)?,
    }
    Ok(exit)
}

/// Rejected objects come before unreadable inputs, as istioctl analyze has it.
fn exit(diagnostics: &[Diagnostic]) -> Exit {
    let mut exit = Exit::Success;
    for diagnostic in diagnostics.iter().filter(|diagnostic| diagnostic.level == Level::Error) {
        if !matches!(diagnostic.code, Code::SYNTAX | Code::ENVIRONMENT) {
            return Exit::Findings;
        }
        exit = Exit::Data;
    }
    exit
}

/// `istioctl validate`: warnings and valid files by name, all errors in one list on stderr.
fn print_plain(inputs: &Inputs, diagnostics: &[&Diagnostic], console: Console) -> anyhow::Result<()> {
    let (errors, warnings): (Vec<&Diagnostic>, Vec<&Diagnostic>) =
        diagnostics.iter().partition(|diagnostic| diagnostic.level == Level::Error);
    let mut by_file: BTreeMap<&Arc<str>, Vec<&Diagnostic>> = BTreeMap::new();
    for warning in warnings {
        by_file.entry(&warning.origin.file).or_default().push(warning);
    }
    let mut out = String::new();
    for file in &inputs.files {
        let name = printable(&file.file);
        match by_file.remove(&file.file) {
            Some(warnings) => out.push_str(&istioctl_findings(warnings, &format!("{name:?} has warnings: "))),
            None if errors.is_empty() && name == "-" => out.push_str("validation succeed\n"),
            None if errors.is_empty() => out.push_str(&format!("{name:?} is valid\n")),
            None => {}
        }
    }
    for (file, warnings) in by_file {
        out.push_str(&istioctl_findings(warnings, &format!("{:?} has warnings: ", printable(file))));
    }
    if inputs.files.is_empty() && errors.is_empty() {
        console.remark("warning: there is no .yaml, .yml or .json file in what was given");
    }
    console.print(&out)?;
    if !errors.is_empty() {
        let heading = match errors.len() {
            1 => "Error: 1 error occurred:".to_owned(),
            count => format!("Error: {count} errors occurred:"),
        };
        console.remark(istioctl_findings(errors, &heading).trim_end_matches('\n'));
    }
    Ok(())
}

fn print_pretty(inputs: Inputs, diagnostics: &[&Diagnostic], console: Console) -> anyhow::Result<()> {
    let paint = console.paint();
    let errors = diagnostics.iter().filter(|diagnostic| diagnostic.level == Level::Error).count();
    let warnings = diagnostics.iter().filter(|diagnostic| diagnostic.level == Level::Warning).count();
    let files = inputs.files.len();
    let objects: usize = inputs.files.iter().map(|file| file.offers.len()).sum();
    let rejected: usize = inputs.files.iter().map(|file| file.rejected.len()).sum();
    let texts = inputs.texts(diagnostics);
    console.print(&snippets(diagnostics, &texts, paint, console.width()))?;
    let counted = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
    let verdict = if errors > 0 {
        paint.error(&counted(errors, "error"))
    } else {
        paint.good(if objects == 0 { "nothing to object to" } else { "valid" })
    };
    let mut summary = format!("{verdict}: {}", counted(objects, "object"));
    if errors > 0 {
        summary.push_str(" good");
    }
    if rejected > 0 {
        summary.push_str(&format!(", {rejected} rejected"));
    }
    summary.push_str(&format!(", in {}", counted(files, "file")));
    if warnings > 0 {
        summary.push_str(&format!(", {}", paint.warning(&counted(warnings, "warning"))));
    }
    console.print(&format!("{summary}\n"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_core::Origin;

    #[test]
    fn rejections_outrank_unreadable_inputs_and_warnings_do_not_count() {
        let error = |code| Diagnostic::error(code, Origin::default(), "x");
        let warning = Diagnostic::warning(Code::SCHEMA_WARNING, Origin::default(), "x");
        assert_eq!(exit(&[]), Exit::Success);
        assert_eq!(exit(std::slice::from_ref(&warning)), Exit::Success);
        assert_eq!(exit(&[warning, error(Code::SYNTAX)]), Exit::Data);
        assert_eq!(exit(&[error(Code::SYNTAX), error(Code::SCHEMA)]), Exit::Findings);
        assert_eq!(exit(&[error(Code::REFERENCE_NOT_FOUND)]), Exit::Findings);
    }
}

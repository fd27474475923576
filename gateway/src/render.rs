//! Text for people: colours, tables, snippets of files, explanations.
//!
//! It turns values into text and decides nothing; where the text goes is the CLI's.

mod diagnostics;
mod explanation;
mod paint;
mod source_text;
mod table;

pub(crate) use diagnostics::{Finding, Texts, findings_table, istioctl_findings, printable, snippets};
pub(crate) use explanation::{ExplanationView, explanation};
pub(crate) use paint::Paint;
pub(crate) use source_text::SourceText;
pub(crate) use table::Table;

use std::fmt::Write;

/// Columns that line up. Cells may carry colours: only what is visible counts.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

/// Between columns.
const GAP: usize = 3;

impl Table {
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// One line a row, each after `indent`; nothing after the last cell that has text.
    pub(crate) fn render(&self, indent: &str) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut widths = vec![0; columns];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(visible_width(cell));
            }
        }
        let mut out = String::new();
        for row in &self.rows {
            let last = row.iter().rposition(|cell| !cell.is_empty()).map_or(0, |at| at + 1);
            out.push_str(indent);
            for (at, cell) in row.iter().enumerate().take(last) {
                out.push_str(cell);
                if at + 1 < last {
                    // Empty columns take no room.
                    let gap = if widths[at] == 0 { 0 } else { widths[at] - visible_width(cell) + GAP };
                    // Writing into a String does not fail.
                    let _ = write!(out, "{:gap$}", "");
                }
            }
            out.push('\n');
        }
        out
    }
}

/// Characters that a terminal shows, without the escape sequences of colours.
fn visible_width(text: &str) -> usize {
    let mut width = 0;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            characters.by_ref().find(|c| c.is_ascii_alphabetic());
        } else {
            width += 1;
        }
    }
    width
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::Paint;

    #[test]
    fn colours_do_not_move_columns() {
        let mut table = Table::default();
        table.row(["a".into(), String::new(), "x".into()]);
        table.row([Paint::new(true).good("bbb"), String::new(), "y".into()]);
        table.row(["c".into(), String::new(), String::new()]);
        let text = table.render("  ");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "  a     x");
        assert!(lines[1].ends_with("   y"));
        assert_eq!(lines[2], "  c");
    }
}

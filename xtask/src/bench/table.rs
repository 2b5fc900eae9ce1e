//! Aligned tables for people.

/// Lines of a table: the first column to the left, the others to the right.
pub(super) fn lines(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |at: usize| {
        rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(at, (cell, &width))| {
            if at == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// A number with about four digits; a dash for none.
pub(super) fn shown(number: Option<f64>) -> String {
    match number {
        None => "-".to_owned(),
        Some(number) if number.abs() >= 1000.0 => format!("{number:.0}"),
        Some(number) if number.abs() >= 100.0 => format!("{number:.1}"),
        Some(number) => format!("{number:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{lines, shown};

    #[test]
    fn columns_are_aligned() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let rows = [row(&["peer", "req/s", "µs"]), row(&["nginx", "7", "123.4"]), row(&["x"])];
        assert_eq!(lines(&rows), ["peer   req/s     µs", "nginx      7  123.4", "x"]);
    }

    #[test]
    fn numbers_have_about_four_digits() {
        assert_eq!(shown(None), "-");
        assert_eq!(shown(Some(0.8149)), "0.81");
        assert_eq!(shown(Some(123.44)), "123.4");
        assert_eq!(shown(Some(25_000.4)), "25000");
    }
}

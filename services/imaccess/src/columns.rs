//! Tables for people: columns as wide as their widest cell.

/// The first row is the heading. Cells of columns whose heading begins with a blank are numbers, and stand to the right.
pub(crate) fn lines(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.trim().chars().count()).max().unwrap_or(0)
        })
        .collect();
    let right: Vec<bool> = rows
        .first()
        .map(|heading| heading.iter().map(|cell| cell.starts_with(' ')).collect())
        .unwrap_or_default();
    rows.iter()
        .map(|row| {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let (cell, blanks) = (cell.trim(), width - cell.trim().chars().count());
                if column > 0 {
                    line.push_str("  ");
                }
                let pad = " ".repeat(blanks);
                if right.get(column).copied().unwrap_or(false) {
                    line.push_str(&pad);
                    line.push_str(cell);
                } else {
                    line.push_str(cell);
                    line.push_str(&pad);
                }
            }
            line.trim_end().to_owned()
        })
        .collect()
}

/// A whole number with commas: 1,234,567.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_stand_to_the_right() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let shown = lines(&[
            row(["NAME", " COUNT", "REMARK"]),
            row(["a", "1,200", "héllo"]),
            row(["longer", "7", ""]),
        ]);
        assert_eq!(
            shown,
            ["NAME    COUNT  REMARK", "a       1,200  héllo", "longer      7"]
        );
        assert_eq!(lines(&[]), [""; 0]);
    }

    #[test]
    fn numbers_have_commas() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(grouped),
            ["0", "999", "1,000", "1,234,567"]
        );
    }
}

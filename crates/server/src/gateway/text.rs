//! Numbers as text. The machinery of formatting costs more than the rest of a line of the access log, and every
//! request writes a dozen.

/// Appends a number in decimal.
pub(super) fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = digit(number % 10);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[first..]);
}

/// Appends the last three decimal digits of a number.
pub(super) fn three(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&[digit(number / 100 % 10), digit(number / 10 % 10), digit(number % 10)]);
}

/// A number in hexadecimal, with all its digits.
pub(super) fn hex(number: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    for (at, place) in digits.iter_mut().enumerate() {
        *place = digit(number >> (60 - 4 * at) & 0xf);
    }
    digits
}

fn digit(value: u64) -> u8 {
    b"0123456789abcdef"[usize::try_from(value).unwrap_or(0) & 0xf]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_the_standard_library_does() {
        for number in [0, 7, 10, 99, 100, 1_005, 12_345_678, u64::from(u32::MAX) + 1, u64::MAX] {
            let mut out = b"n".to_vec();
            decimal(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), format!("n{number}"));
            assert_eq!(hex(number), *format!("{number:016x}").as_bytes());
            let mut out = b"n".to_vec();
            three(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), format!("n{:03}", number % 1000));
        }
    }
}

//! Decimal numbers as they were written: no digit is ever lost, at any size.
//!
//! A number is kept as its digits and the place of its point, so that two of them are compared
//! by reading, in time linear in what was written: `1e1000000000` costs four bytes here.
//! Arithmetic does expand numbers, and so it refuses operands and results beyond
//! [`MAX_DIGITS`] digits on either side of the point.

use std::borrow::Cow;
use std::cmp::Ordering;

use bigdecimal::{BigDecimal, Zero};

/// Most digits that arithmetic takes or gives, before and after the point each.
pub(crate) const MAX_DIGITS: i64 = 1000;

/// `0.digits × 10^magnitude`, with neither leading nor trailing zeros; zero has no digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Number<'v> {
    negative: bool,
    magnitude: i64,
    digits: Cow<'v, str>,
}

/// Operator of arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`
    Divide,
    /// `%`
    Remainder,
}

impl Arithmetic {
    /// As it is written.
    pub(crate) const fn symbol(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Remainder => "%",
        }
    }
}

/// Why arithmetic gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArithmeticError {
    #[error("division by zero")]
    DivisionByZero,
    #[error("numbers with more than {MAX_DIGITS} digits can be compared but not calculated with")]
    TooLarge,
}

impl<'v> Number<'v> {
    /// Reads a number as JSON, SQL and CEL write it, or nothing if it is not one.
    #[must_use]
    pub fn parse(text: &'v str) -> Option<Self> {
        let (negative, unsigned) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
            None => (unsigned, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction)
        {
            return None;
        }

        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        let (digits, point) = if fraction.is_empty() {
            (whole.trim_end_matches('0').into(), length(whole))
        } else if whole.is_empty() {
            let significant = fraction.trim_start_matches('0');
            (significant.into(), length(significant) - length(fraction))
        } else {
            (Cow::Owned([whole, fraction].concat()), length(whole))
        };
        if digits.is_empty() {
            return Some(Self::zero());
        }
        Some(Self {
            negative,
            magnitude: point.checked_add(exponent)?,
            digits,
        })
    }

    /// Nought.
    fn zero() -> Self {
        Self {
            negative: false,
            magnitude: 0,
            digits: Cow::Borrowed(""),
        }
    }

    /// Whether it is below zero.
    #[must_use]
    pub const fn is_negative(&self) -> bool {
        self.negative
    }

    /// Its digits, with neither leading nor trailing zeros; none where it is zero.
    #[must_use]
    pub fn digits(&self) -> &str {
        &self.digits
    }

    /// Place of the point, counted from before the first digit.
    #[must_use]
    pub const fn magnitude(&self) -> i64 {
        self.magnitude
    }

    /// The same number, borrowed.
    #[must_use]
    pub fn borrowed(&'v self) -> Self {
        Self {
            negative: self.negative,
            magnitude: self.magnitude,
            digits: Cow::Borrowed(&self.digits),
        }
    }

    /// The number with the other sign.
    pub(crate) fn negated(mut self) -> Self {
        self.negative = !self.negative && !self.digits.is_empty();
        self
    }

    /// The number without what stands after the point.
    pub(crate) fn truncated(mut self) -> Self {
        let Ok(kept) = usize::try_from(self.magnitude) else {
            return Self::zero();
        };
        if kept == 0 {
            return Self::zero();
        }
        if kept < self.digits.len() {
            let end = self.digits[..kept].trim_end_matches('0').len();
            match &mut self.digits {
                Cow::Borrowed(digits) => *digits = &digits[..end],
                Cow::Owned(digits) => digits.truncate(end),
            }
        }
        self
    }

    /// The place in a list that this number names, if it is whole and not negative.
    pub(crate) fn as_index(&self) -> Option<usize> {
        let digits_before_point = usize::try_from(self.magnitude).ok()?;
        if self.negative || self.digits.len() > digits_before_point || digits_before_point > 18 {
            return None;
        }
        if self.digits.is_empty() {
            return Some(0);
        }
        format!("{:0<digits_before_point$}", self.digits)
            .parse()
            .ok()
    }

    /// As text that [`Number::parse`] reads back; with an exponent only where it would be long.
    pub(crate) fn to_text(&self) -> String {
        let sign = if self.negative { "-" } else { "" };
        let digits = &self.digits;
        let count = length(digits);
        if digits.is_empty() {
            return "0".to_owned();
        }
        if self.magnitude.abs() > MAX_DIGITS {
            return format!("{sign}0.{digits}e{}", self.magnitude);
        }
        if self.magnitude <= 0 {
            let zeros = "0".repeat(usize::try_from(-self.magnitude).unwrap_or(0));
            return format!("{sign}0.{zeros}{digits}");
        }
        let whole = usize::try_from(self.magnitude).unwrap_or(0);
        if self.magnitude >= count {
            format!("{sign}{digits:0<whole$}")
        } else {
            format!("{sign}{}.{}", &digits[..whole], &digits[whole..])
        }
    }

    /// The result of `self operator other`; a quotient is rounded to 100 digits.
    pub(crate) fn calculate(
        &self,
        operator: Arithmetic,
        other: &Self,
    ) -> Result<Number<'static>, ArithmeticError> {
        let (left, right) = (self.expand()?, other.expand()?);
        let result = match operator {
            Arithmetic::Add => left + right,
            Arithmetic::Subtract => left - right,
            Arithmetic::Multiply => left * right,
            Arithmetic::Divide | Arithmetic::Remainder if right.is_zero() => {
                return Err(ArithmeticError::DivisionByZero);
            }
            Arithmetic::Divide => left / right,
            Arithmetic::Remainder => left % right,
        };
        let (digits, scale) = result.as_bigint_and_exponent();
        let text = format!("{digits}e{}", -i128::from(scale));
        let number = Number::parse(&text).ok_or(ArithmeticError::TooLarge)?;
        number.check_size()?;
        Ok(number.into_owned())
    }

    fn check_size(&self) -> Result<(), ArithmeticError> {
        let after_point = length(&self.digits).saturating_sub(self.magnitude);
        if self.magnitude > MAX_DIGITS || after_point > MAX_DIGITS {
            return Err(ArithmeticError::TooLarge);
        }
        Ok(())
    }

    fn expand(&self) -> Result<BigDecimal, ArithmeticError> {
        self.check_size()?;
        self.to_text()
            .parse()
            .map_err(|_| ArithmeticError::TooLarge)
    }

    /// The same number with digits of its own.
    #[must_use]
    pub fn into_owned(self) -> Number<'static> {
        Number {
            negative: self.negative,
            magnitude: self.magnitude,
            digits: Cow::Owned(self.digits.into_owned()),
        }
    }

    /// Bytes it holds.
    pub(crate) fn len(&self) -> usize {
        self.digits.len()
    }
}

impl From<usize> for Number<'_> {
    fn from(count: usize) -> Self {
        Number::parse(&count.to_string()).map_or_else(Number::zero, Number::into_owned)
    }
}

impl Ord for Number<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |number: &Self| match (number.digits.is_empty(), number.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        };
        let by_size = || {
            self.magnitude
                .cmp(&other.magnitude)
                .then_with(|| self.digits.cmp(&other.digits))
        };
        sign(self).cmp(&sign(other)).then_with(|| {
            if self.negative {
                by_size().reverse()
            } else {
                by_size()
            }
        })
    }
}

impl PartialOrd for Number<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The length of a text in memory, which never exceeds `i64::MAX`.
fn length(text: &str) -> i64 {
    i64::try_from(text.len()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::str::FromStr;

    use proptest::prelude::*;

    use super::*;

    fn number(text: &str) -> Number<'_> {
        Number::parse(text).unwrap()
    }

    #[test]
    fn one_value_has_one_form() {
        for (left, right) in [
            ("0", "-0.000e99"),
            ("1500", "1.5e3"),
            ("0.1", "1e-1"),
            ("12.50", "+12.5"),
            ("007", "7.0"),
            ("100e-2", "1"),
            (".5", "0.50"),
        ] {
            assert_eq!(number(left), number(right), "{left} {right}");
        }
    }

    #[test]
    fn order_holds_beyond_every_machine_type() {
        let rising = [
            "-1e1000000000",
            "-12345678901234567890124",
            "-12345678901234567890123",
            "-0.1",
            "0",
            "1e-1000000000",
            "0.1",
            "0.1000000000000000000000000000000001",
            "9",
            "10",
            "12345678901234567890123",
            "12345678901234567890124",
            "1e400",
            "1e1000000000",
        ];
        for pair in rising.windows(2) {
            assert!(number(pair[0]) < number(pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn what_is_not_a_number_is_refused() {
        for text in [
            "",
            "-",
            ".",
            "e5",
            "1e",
            "1e1.5",
            "NaN",
            "Infinity",
            " 1",
            "1 ",
            "0x10",
            "1_000",
            "--1",
            "1e99999999999999999999",
        ] {
            assert_eq!(Number::parse(text), None, "{text}");
        }
    }

    #[test]
    fn arithmetic_is_decimal_and_bounded() {
        use Arithmetic::{Add, Divide, Multiply, Remainder, Subtract};
        for (left, operator, right, expected) in [
            ("0.1", Add, "0.2", Ok("0.3")),
            ("1", Subtract, "0.9", Ok("0.1")),
            ("1e20", Add, "1", Ok("100000000000000000001")),
            ("7", Divide, "2", Ok("3.5")),
            ("-7", Remainder, "3", Ok("-1")),
            ("1", Divide, "0.0", Err(ArithmeticError::DivisionByZero)),
            ("1", Remainder, "0", Err(ArithmeticError::DivisionByZero)),
            ("1e999999999", Add, "1", Err(ArithmeticError::TooLarge)),
            ("1", Add, "1e-999999999", Err(ArithmeticError::TooLarge)),
            ("1e900", Multiply, "1e900", Err(ArithmeticError::TooLarge)),
        ] {
            let result = number(left).calculate(operator, &number(right));
            assert_eq!(
                result.map(|number| number.to_text()),
                expected.map(ToOwned::to_owned),
                "{left} {operator:?} {right}"
            );
        }
    }

    #[test]
    fn truncation_goes_towards_zero() {
        for (text, expected) in [
            ("12.9", "12"),
            ("-12.9", "-12"),
            ("0.9", "0"),
            ("1e3", "1000"),
            ("100.5", "100"),
            ("1e-9", "0"),
        ] {
            assert_eq!(number(text).truncated(), number(expected), "{text}");
        }
    }

    #[test]
    fn only_whole_numbers_name_a_place() {
        for (text, expected) in [
            ("0", Some(0)),
            ("20", Some(20)),
            ("2.0", Some(2)),
            ("2.5", None),
            ("-1", None),
            ("1e30", None),
        ] {
            assert_eq!(number(text).as_index(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn order_agrees_with_bigdecimal(left in "-?[0-9]{1,25}(\\.[0-9]{1,20})?(e-?[0-9]{1,2})?",
                                        right in "-?[0-9]{1,25}(\\.[0-9]{1,20})?(e-?[0-9]{1,2})?") {
            let expected = BigDecimal::from_str(&left).unwrap().cmp(&BigDecimal::from_str(&right).unwrap());
            prop_assert_eq!(number(&left).cmp(&number(&right)), expected);
            prop_assert_eq!(number(&left) == number(&right), expected.is_eq());
        }

        #[test]
        fn text_reads_back(text in "-?[0-9]{1,9}(\\.[0-9]{1,9})?(e-?[0-9]{1,6})?") {
            let written = number(&text).to_text();
            prop_assert_eq!(number(&written), number(&text));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,20}", more in "[-+0-9.eE]{0,30}") {
            for text in [&text, &more] {
                if let Some(number) = Number::parse(text) {
                    let _ = number.calculate(Arithmetic::Multiply, &number);
                    let _ = number.clone().truncated().to_text();
                }
            }
        }
    }
}

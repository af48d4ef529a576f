//! Numbers in templates: they calculate and compare as floats, and print as they were written.
//!
//! A template's number has 53 bits, Postgres' `numeric` has any number of digits, and a total
//! of `10.00` should not go out as `10.0`. So each number that is not a plain integer enters
//! the template as its nearest float, and this table remembers the text that float stands for.

use std::collections::BTreeMap;

use cel::number::Number;
use minijinja::value::Value;

/// How many numbers of one delivery may share a nearest float.
const MAX_CLOSE: usize = 32;

/// Texts behind the floats of one delivery.
#[derive(Debug, Default)]
pub(crate) struct ExactNumbers(BTreeMap<u64, String>);

impl ExactNumbers {
    /// No numbers.
    pub(crate) const EMPTY: Self = Self(BTreeMap::new());

    /// Returns the template's value of a JSON number; `None` where too many numbers lie so close
    /// together that floats cannot tell them apart.
    pub(crate) fn admit(&mut self, text: &str) -> Option<Value> {
        if let Ok(integer) = text.parse::<i128>()
            && integer.to_string() == text
        {
            return Some(i64::try_from(integer).map_or(Value::from(integer), Value::from));
        }
        let mut float = nearest(text);
        for _ in 0..MAX_CLOSE {
            match self.0.get(&float.to_bits()) {
                None => {
                    self.0.insert(float.to_bits(), text.to_owned());
                    return Some(Value::from(float));
                }
                // The same number written differently prints as it was written first.
                Some(known) if canonical(known) == canonical(text) => {
                    return Some(Value::from(float));
                }
                Some(_) => float = neighbour(float),
            }
        }
        None
    }

    /// Returns what to print for a float; `None` for infinities and for what is no number.
    pub(crate) fn text(&self, float: f64) -> Option<String> {
        match self.0.get(&float.to_bits()) {
            Some(text) => Some(text.clone()),
            None => serde_json::Number::from_f64(float).map(|number| number.to_string()),
        }
    }
}

/// The next float away from zero, or towards it where the end of the range is near.
fn neighbour(float: f64) -> f64 {
    let bits = float.to_bits();
    f64::from_bits(if float.abs() > 1e300 {
        bits - 1
    } else {
        bits + 1
    })
}

/// The nearest float that is finite, and not zero unless the number is.
fn nearest(text: &str) -> f64 {
    let float: f64 = text.parse().unwrap_or(0.0);
    if float.is_infinite() {
        return f64::MAX.copysign(float);
    }
    if float == 0.0 && !canonical(text).1.is_empty() {
        return f64::from_bits(1).copysign(float);
    }
    float
}

/// Sign, digits without zeros at either end, and the power of ten of the last digit: equal
/// for equal numbers.
pub(crate) fn canonical(text: &str) -> (bool, String, i64) {
    match Number::parse(text) {
        Some(number) => {
            let last = number.magnitude().saturating_sub(length(number.digits()));
            (number.is_negative(), number.digits().to_owned(), last)
        }
        // Its exponent is beyond 64 bits, so it equals what is written alike.
        None => (text.starts_with('-'), text.to_owned(), i64::MAX / 2),
    }
}

fn length(text: &str) -> i64 {
    i64::try_from(text.len()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use proptest::prelude::*;

    use super::*;

    fn printed(numbers: &ExactNumbers, value: &Value) -> String {
        if value.is_integer() {
            return value.to_string();
        }
        numbers.text(f64::try_from(value.clone()).unwrap()).unwrap()
    }

    #[test]
    fn close_numbers_keep_their_own_digits_and_their_order() {
        let mut numbers = ExactNumbers::default();
        let texts = [
            "1.00000000000000000001",
            "1.00000000000000000002",
            "1e400",
            "2e400",
            "-1e400",
        ];
        let values: Vec<Value> = texts
            .iter()
            .map(|text| numbers.admit(text).unwrap())
            .collect();
        for (text, value) in texts.iter().zip(&values) {
            assert_eq!(printed(&numbers, value), *text);
        }
        assert!(values[2] > Value::from(1_000_000));
        assert!(values[4] < Value::from(-1_000_000));
    }

    #[test]
    fn equal_numbers_stay_equal_however_written() {
        let mut numbers = ExactNumbers::default();
        let first = numbers.admit("10.00").unwrap();
        assert_eq!(first, numbers.admit("10.0").unwrap());
        assert_eq!(first, numbers.admit("1e1").unwrap());
        assert_eq!(first, Value::from(10));
    }

    #[test]
    fn numbers_too_close_for_floats_are_rejected() {
        let mut numbers = ExactNumbers::default();
        let crowd = (0..1000).map(|n| format!("1.00000000000000000000000000{n:04}1"));
        assert!(
            crowd
                .map(|text| numbers.admit(&text))
                .any(|value| value.is_none())
        );
    }

    proptest! {
        #[test]
        fn every_number_prints_as_it_was_written(
            text in "-?(0|[1-9][0-9]{0,45})(\\.[0-9]{1,45})?([eE][+-]?[0-9]{1,4})?"
        ) {
            let mut numbers = ExactNumbers::default();
            let value = numbers.admit(&text).unwrap();
            prop_assert_eq!(printed(&numbers, &value), text);
        }

        #[test]
        fn floats_compare_as_their_texts_do(a in -1e12f64..1e12, b in -1e12f64..1e12) {
            let mut numbers = ExactNumbers::default();
            let (left, right) = (format!("{a:.2}"), format!("{b:.2}"));
            let order = left.parse::<f64>().unwrap().total_cmp(&right.parse().unwrap());
            let (left, right) = (numbers.admit(&left).unwrap(), numbers.admit(&right).unwrap());
            prop_assert_eq!(left.cmp(&right), order);
        }
    }
}

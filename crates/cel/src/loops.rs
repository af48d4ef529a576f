//! `all`, `exists`, `exists_one`, `map` and `filter`.

use std::rc::Rc;

use crate::evaluate::{Evaluation, Outcome, Stop, failed};
use crate::tree::{Loop, Node};
use crate::value::Value;

impl<'v> Evaluation<'v> {
    /// What a loop runs over: elements, or the names of fields.
    fn range(&mut self, at: usize, over: &'v Node) -> Result<Rc<Vec<Value<'v>>>, Stop> {
        let value = self.value(over)?;
        if let Some(elements) = self.elements(at, &value, || over.describe())? {
            return Ok(elements);
        }
        let Some(fields) = self.open(at, &value, || over.describe())? else {
            let message = format!("{} is {}, not a list", over.describe(), value.kind());
            return failed(at, message);
        };
        self.spend(at, fields.len() * size_of::<Value<'_>>())?;
        let names = fields.names().map(|name| Value::Text(name.clone()));
        Ok(Rc::new(names.collect()))
    }

    /// Runs `body` with the loop's variable set to one element.
    fn with<T>(
        &mut self,
        element: &Value<'v>,
        body: impl FnOnce(&mut Self) -> Result<T, Stop>,
    ) -> Result<T, Stop> {
        self.locals.push(element.clone());
        let outcome = body(self);
        self.locals.pop();
        outcome
    }

    pub(crate) fn quantify(
        &mut self,
        at: usize,
        kind: Loop,
        over: &'v Node,
        body: &'v Node,
    ) -> Result<bool, Stop> {
        let settled_by = kind != Loop::All;
        let (mut hits, mut first_failure) = (0_usize, None);
        for element in self.range(at, over)?.iter() {
            self.spend(at, element.weight())?;
            match self.with(element, |walk| walk.truth(body)) {
                Ok(value) if value == settled_by && kind != Loop::ExistsOne => return Ok(value),
                Ok(value) => hits += usize::from(value),
                Err(stop @ Stop::Failed { .. }) if kind != Loop::ExistsOne => {
                    first_failure.get_or_insert(stop);
                }
                Err(stop) => return Err(stop),
            }
        }
        match first_failure {
            Some(failure) => Err(failure),
            None if kind == Loop::ExistsOne => Ok(hits == 1),
            None => Ok(!settled_by),
        }
    }

    pub(crate) fn collect(
        &mut self,
        at: usize,
        kind: Loop,
        over: &'v Node,
        (body, result): (&'v Node, Option<&'v Node>),
    ) -> Outcome<'v> {
        let mut collected = Vec::new();
        for element in self.range(at, over)?.iter() {
            self.spend(at, size_of::<Value<'_>>() + element.weight())?;
            let made = self.with(element, |walk| {
                // `map` with two arguments makes something of every element.
                if (kind == Loop::Filter || result.is_some()) && !walk.truth(body)? {
                    return Ok(None);
                }
                match kind {
                    Loop::Filter => Ok(Some(element.clone())),
                    _ => walk.value(result.unwrap_or(body)).map(Some),
                }
            })?;
            collected.extend(made);
        }
        Ok(Value::List(Rc::new(collected)))
    }
}

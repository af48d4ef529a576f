//! Conditions of statements.

use chrono::{DateTime, Utc};
use sqlx::{Postgres, QueryBuilder};

use super::tsquery::tsquery;
use crate::plan::Plan;
use crate::query::Query;
use crate::request::{PageKey, Scope, SortOrder};

/// Length of the beginning of a tenant that is in an index.
const TENANT_CHARACTERS: u32 = 100;

/// Returns the time of a number of microseconds since 1970, or the nearest one that can be represented.
fn time(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or(if micros < 0 {
        DateTime::<Utc>::MIN_UTC
    } else {
        DateTime::<Utc>::MAX_UTC
    })
}

/// Adds the conditions of a scope: of every statement that reads for a caller.
pub(super) fn push_scope(sql: &mut QueryBuilder<Postgres>, scope: &Scope) {
    push_scope_as(sql, scope, "listener");
}

fn push_scope_as(sql: &mut QueryBuilder<Postgres>, scope: &Scope, listener: &str) {
    sql.push(format!(" where {listener} = "))
        .push_bind(scope.listener.clone());
    if let Some(tenant) = &scope.tenant {
        // Text in Postgres holds no NUL, so no row is of such a tenant.
        if tenant.contains('\0') {
            sql.push(" and false");
            return;
        }
        sql.push(" and tenant = ").push_bind(tenant.clone());
        sql.push(format!(" and left(tenant, {TENANT_CHARACTERS}) = "));
        let beginning: String = tenant.chars().take(TENANT_CHARACTERS as usize).collect();
        sql.push_bind(beginning);
    }
}

/// Adds the conditions of a plan. Without a time, a search by terms is left no index but theirs, which has
/// the listener as a term: as long as there are no statistics, the planner takes a listener for one of many,
/// and would read all of its documents.
pub(super) fn push_conditions(sql: &mut QueryBuilder<Postgres>, plan: &Plan) {
    let by_terms = plan.query != Query::All && plan.from.is_none() && plan.to.is_none();
    let listener = if by_terms {
        "listener || ''"
    } else {
        "listener"
    };
    push_scope_as(sql, &plan.scope, listener);
    if let Some(query) = tsquery(&plan.query, &plan.scope) {
        sql.push(" and terms @@ ")
            .push_bind(query)
            .push("::tsquery");
    }
    if let Some(from) = plan.from {
        sql.push(" and occurred_at >= ").push_bind(time(from));
    }
    if let Some(to) = plan.to {
        sql.push(" and occurred_at < ").push_bind(time(to));
    }
}

/// Adds the condition that a row comes after a place, and the order.
pub(super) fn push_page(
    sql: &mut QueryBuilder<Postgres>,
    and: &str,
    after: Option<&PageKey>,
    sort: SortOrder,
) {
    let (comparison, direction) = match sort {
        SortOrder::Newest => ("<", "desc"),
        SortOrder::Oldest => (">", "asc"),
    };
    if let Some(after) = after {
        sql.push(format!(" {and} (occurred_at, log_id, id) {comparison} ("));
        sql.push_bind(time(after.occurred_at_micros)).push(", ");
        sql.push_bind(after.log_id).push(", ");
        sql.push_bind(after.id.replace('\0', "")).push(")");
    }
    sql.push(format!(
        " order by occurred_at {direction}, log_id {direction}, id {direction}"
    ));
}

-- What a role may do with this schema that was only let in to emit events, or to track its own tables.
--
-- The trigger functions run with the rights of the schema's owner and read their transition tables by
-- names without a schema. As a trigger without transition tables they would read whatever has these
-- names: a temporary view of the caller's, whose functions then ran with those rights. So the names lead
-- to empty views of this schema where there is no transition table, before they lead to anything
-- temporary; and who makes a trigger of these functions needs to be allowed to.

create view observer.changed_rows as select where false;
create view observer.old_rows as select where false;
create view observer.new_rows as select where false;

alter function observer.log_rows() set search_path = pg_catalog, observer, pg_temp;
alter function observer.log_update() set search_path = pg_catalog, observer, pg_temp;

revoke all on function observer.log_rows, observer.log_update, observer.log_truncate from public;

comment on view observer.changed_rows is
'Stands in for the transition table of a trigger that has none. Empty.';
comment on view observer.old_rows is 'Like observer.changed_rows.';
comment on view observer.new_rows is 'Like observer.changed_rows.';

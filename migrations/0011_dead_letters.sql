-- Dead letters, looked for in the order of the log and by their age.

create index on observer.dead_letter (listener, log_id, id);
create index on observer.dead_letter (listener, created_at);

-- A save that adds jobs names itself, so that it does not add them again when its answer was lost.
alter table observer.checkpoint add column last_save uuid;

-- Where the jobs of a listener are kept, and where some may still be while that changes.
alter table observer.job_queue add column place text not null default 'Postgres';

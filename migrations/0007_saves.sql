-- A save that adds jobs names itself, so that it does not add them again when its answer was lost.
alter table observer.checkpoint add column last_save uuid;

DROP TABLE IF EXISTS attempts, calls, incarnations;
DROP TYPE IF EXISTS attempt_state;
DROP TYPE IF EXISTS call_outcome;
DROP TYPE IF EXISTS call_state;

DROP TABLE IF EXISTS messages, threads;
DROP TYPE IF EXISTS message_status;

-- Conversations. A thread's row is never touched by a call: no hot row. A message is inserted once and never changed.

CREATE TABLE IF NOT EXISTS threads (
  org_id      text NOT NULL,
  thread_id   text NOT NULL,
  user_id     text NOT NULL,
  title       text NOT NULL DEFAULT '',
  description text NOT NULL DEFAULT '',
  visibility  text NOT NULL DEFAULT 'org' CHECK (visibility IN ('org', 'private')),
  canon       integer NOT NULL, -- the version of the canonical form its chain is made with
  created_at  integer NOT NULL DEFAULT (now()),
  deleted_at  integer,
  PRIMARY KEY (org_id, thread_id)
) STRICT;
CREATE INDEX IF NOT EXISTS threads_newest ON threads (org_id, created_at DESC, thread_id DESC);

-- No foreign key to threads or calls: it would lock the parent's row once per message and let a stray lock stall the
-- writer. Equal parents follow from the composite keys.
CREATE TABLE IF NOT EXISTS messages (
  org_id     text NOT NULL,
  thread_id  text NOT NULL,
  seq        integer NOT NULL, -- from 0, gapless
  call_id    text NOT NULL,
  role       text NOT NULL,
  raw        text NOT NULL,    -- the message's JSON as sent or received
  own        blob NOT NULL,    -- hash of its canonical form
  chain      blob NOT NULL,    -- hash over all chained messages up to it
  status     text NOT NULL CHECK (status IN ('complete', 'incomplete')),
  reason     text,
  meta       text CHECK (json_valid(meta)), -- answers: threads.Provenance
  created_at integer NOT NULL DEFAULT (now()),
  PRIMARY KEY (org_id, thread_id, seq)
) STRICT;

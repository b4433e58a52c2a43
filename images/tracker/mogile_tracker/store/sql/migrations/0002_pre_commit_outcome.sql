-- A batch that is one statement leaves its results with the mark of its commit (store/onestatement): a connection lost meanwhile loses both answers.
ALTER TABLE IF EXISTS mogile_commit ADD COLUMN IF NOT EXISTS outcome bigint[];

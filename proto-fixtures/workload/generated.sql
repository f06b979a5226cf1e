ALTER PUBLICATION p SET (publish_generated_columns = stored)

INSERT INTO gen (id, note) VALUES (21, 'twice')

UPDATE gen SET id = 22

DELETE FROM gen

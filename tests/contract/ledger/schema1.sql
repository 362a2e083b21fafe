BEGIN TRANSACTION;
CREATE TABLE attempts (
	lease_name VARCHAR NOT NULL, 
	job_uid VARCHAR NOT NULL, 
	attempt INTEGER NOT NULL, 
	request_id VARCHAR NOT NULL, 
	tenant VARCHAR NOT NULL, 
	job_name VARCHAR NOT NULL, 
	provider VARCHAR NOT NULL, 
	product VARCHAR NOT NULL, 
	price BIGINT NOT NULL, 
	gpus INTEGER NOT NULL, 
	run_limit BIGINT NOT NULL, 
	tenant_wallet VARCHAR DEFAULT '' NOT NULL, 
	provider_wallet VARCHAR DEFAULT '' NOT NULL, 
	created_at BIGINT NOT NULL, 
	ended_at BIGINT, 
	outcome VARCHAR DEFAULT '' NOT NULL, 
	PRIMARY KEY (lease_name), 
	UNIQUE (job_uid, attempt), 
	UNIQUE (job_uid, request_id), 
	CONSTRAINT attempts_sane CHECK (attempt > 0 AND price >= 0 AND gpus > 0 AND run_limit > 0)
);
INSERT INTO "attempts" VALUES('job-1','job',1,'1','team-a','train','berlin','NVIDIA-H100-80GB-HBM3',1250000,8,3600,'0x00000000000000000000000000000000000000A1','0x00000000000000000000000000000000000000b1',1748779200123456,1748779260123456,'Fenced');
INSERT INTO "attempts" VALUES('job-2','job',2,'2','team-a','train','paris','NVIDIA-H100-80GB-HBM3',7,8,3600,'0x00000000000000000000000000000000000000A1','0x00000000000000000000000000000000000000b1',1748779320123456,NULL,'');
INSERT INTO "attempts" VALUES('other-1','other',1,'1','team-a','train','berlin','NVIDIA-H100-80GB-HBM3',1250000,8,3600,'0x00000000000000000000000000000000000000A1','0x00000000000000000000000000000000000000b1',1748779440123456,NULL,'');
CREATE TABLE chain_txs (
	id INTEGER NOT NULL, 
	tx_hash VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	epoch INTEGER, 
	provider_wallet VARCHAR, 
	sender VARCHAR NOT NULL, 
	nonce BIGINT, 
	raw BLOB NOT NULL, 
	state VARCHAR NOT NULL, 
	block_number BIGINT, 
	created_at BIGINT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (tx_hash), 
	FOREIGN KEY(epoch) REFERENCES epochs (number)
);
INSERT INTO "chain_txs" VALUES(1,'0x3333333333333333333333333333333333333333333333333333333333333333','post',1,NULL,'0x00000000000000000000000000000000000000A1',4,X'02F8','Broadcast',NULL,1748779200123456);
CREATE TABLE epoch_leases (
	lease_name VARCHAR NOT NULL, 
	epoch INTEGER NOT NULL, 
	gpu_seconds BIGINT NOT NULL, 
	skipped INTEGER DEFAULT '0' NOT NULL, 
	PRIMARY KEY (lease_name, epoch), 
	FOREIGN KEY(lease_name) REFERENCES attempts (lease_name), 
	FOREIGN KEY(epoch) REFERENCES epochs (number)
)
 WITHOUT ROWID

;
INSERT INTO "epoch_leases" VALUES('job-1',1,7200,0);
CREATE TABLE epoch_lines (
	epoch INTEGER NOT NULL, 
	tenant VARCHAR NOT NULL, 
	provider VARCHAR NOT NULL, 
	tenant_wallet VARCHAR NOT NULL, 
	provider_wallet VARCHAR NOT NULL, 
	cumulative BIGINT NOT NULL, 
	PRIMARY KEY (epoch, tenant, provider, tenant_wallet, provider_wallet), 
	FOREIGN KEY(epoch) REFERENCES epochs (number)
)
 WITHOUT ROWID

;
INSERT INTO "epoch_lines" VALUES(1,'team-a','berlin','0x00000000000000000000000000000000000000A1','0x00000000000000000000000000000000000000b1',2500000);
CREATE TABLE epochs (
	number INTEGER NOT NULL, 
	seq BIGINT NOT NULL, 
	prev_root VARCHAR NOT NULL, 
	root VARCHAR NOT NULL, 
	manifest BLOB NOT NULL, 
	manifest_hash VARCHAR NOT NULL, 
	period_end BIGINT NOT NULL, 
	total BIGINT NOT NULL, 
	stage VARCHAR NOT NULL, 
	created_at BIGINT NOT NULL, 
	chain_epoch BIGINT, 
	post_tx VARCHAR, 
	PRIMARY KEY (number)
);
INSERT INTO "epochs" VALUES(1,1,'0x0000000000000000000000000000000000000000000000000000000000000000','0x1111111111111111111111111111111111111111111111111111111111111111',X'7B226B696E64223A2278227D','0x5945d53e216db36ae422ee1edd37691ca479fcdda7c5e7a63d014f56069f8529',1748779200000000,2500000,'Posted',1748779200123456,NULL,'0x3333333333333333333333333333333333333333333333333333333333333333');
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(1);
CREATE TABLE usage_records (
	lease_name VARCHAR NOT NULL, 
	sequence BIGINT NOT NULL, 
	gpu_seconds BIGINT NOT NULL, 
	observed_at BIGINT NOT NULL, 
	PRIMARY KEY (lease_name, sequence), 
	CONSTRAINT usage_sane CHECK (sequence > 0 AND gpu_seconds >= 0), 
	FOREIGN KEY(lease_name) REFERENCES attempts (lease_name)
)
 WITHOUT ROWID

;
INSERT INTO "usage_records" VALUES('job-1',1,40,1748779201123456);
INSERT INTO "usage_records" VALUES('job-1',2,100,1748779202123456);
INSERT INTO "usage_records" VALUES('job-1',5,7200,1748779205123456);
INSERT INTO "usage_records" VALUES('job-2',6,11,1748779380123456);
CREATE UNIQUE INDEX one_open_attempt_per_job ON attempts (job_uid) WHERE ended_at IS NULL;
CREATE INDEX attempts_by_pair ON attempts (tenant, provider);
CREATE TRIGGER attempts_no_update BEFORE UPDATE OF "lease_name", "job_uid", "attempt", "request_id", "tenant", "job_name", "provider", "product", "price", "gpus", "run_limit", "tenant_wallet", "provider_wallet", "created_at" ON attempts BEGIN SELECT RAISE(ABORT, 'attempts is append-only'); END;
CREATE TRIGGER attempts_no_delete BEFORE DELETE ON attempts BEGIN SELECT RAISE(ABORT, 'attempts is append-only'); END;
CREATE TRIGGER attempts_ends_once BEFORE UPDATE OF ended_at, outcome ON attempts WHEN OLD.ended_at IS NOT NULL BEGIN SELECT RAISE(ABORT, 'an attempt ends once'); END;
CREATE INDEX epochs_by_manifest ON epochs (manifest_hash);
CREATE TRIGGER epochs_no_update BEFORE UPDATE OF "number", "seq", "prev_root", "root", "manifest", "manifest_hash", "period_end", "total", "created_at" ON epochs BEGIN SELECT RAISE(ABORT, 'epochs is append-only'); END;
CREATE TRIGGER epochs_no_delete BEFORE DELETE ON epochs BEGIN SELECT RAISE(ABORT, 'epochs is append-only'); END;
CREATE TRIGGER usage_records_no_update BEFORE UPDATE OF "lease_name", "sequence", "gpu_seconds", "observed_at" ON usage_records BEGIN SELECT RAISE(ABORT, 'usage_records is append-only'); END;
CREATE TRIGGER usage_records_no_delete BEFORE DELETE ON usage_records BEGIN SELECT RAISE(ABORT, 'usage_records is append-only'); END;
CREATE TRIGGER usage_records_only_rises BEFORE INSERT ON usage_records WHEN EXISTS (SELECT 1 FROM usage_records AS u WHERE u.lease_name = NEW.lease_name AND (u.sequence >= NEW.sequence OR u.gpu_seconds > NEW.gpu_seconds)) BEGIN SELECT RAISE(ABORT, 'usage only rises'); END;
CREATE TRIGGER epoch_lines_no_update BEFORE UPDATE OF "epoch", "tenant", "provider", "tenant_wallet", "provider_wallet", "cumulative" ON epoch_lines BEGIN SELECT RAISE(ABORT, 'epoch_lines is append-only'); END;
CREATE TRIGGER epoch_lines_no_delete BEFORE DELETE ON epoch_lines BEGIN SELECT RAISE(ABORT, 'epoch_lines is append-only'); END;
CREATE INDEX epoch_leases_by_epoch ON epoch_leases (epoch);
CREATE TRIGGER epoch_leases_no_update BEFORE UPDATE OF "lease_name", "epoch", "gpu_seconds" ON epoch_leases BEGIN SELECT RAISE(ABORT, 'epoch_leases is append-only'); END;
CREATE TRIGGER epoch_leases_no_delete BEFORE DELETE ON epoch_leases BEGIN SELECT RAISE(ABORT, 'epoch_leases is append-only'); END;
CREATE TRIGGER chain_txs_no_update BEFORE UPDATE OF "id", "tx_hash", "kind", "epoch", "provider_wallet", "sender", "nonce", "raw", "created_at" ON chain_txs BEGIN SELECT RAISE(ABORT, 'chain_txs is append-only'); END;
CREATE TRIGGER chain_txs_no_delete BEFORE DELETE ON chain_txs BEGIN SELECT RAISE(ABORT, 'chain_txs is append-only'); END;
COMMIT;

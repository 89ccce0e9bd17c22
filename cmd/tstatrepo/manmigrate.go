package main

// migratePage returns tstatrepo-migrate(7): how the old tools are replaced.
func migratePage() []byte {
	p := newPage("tstatrepo-migrate", 7, "from mPlane's Tstat proxies and DBStream's importer to tstatrepo")
	p.section("DESCRIPTION")
	p.text("tstatrepo takes the place of mPlane's tstatrepository.py and tstat.py, and of DBStream's math_repo and math_probe. " +
		"It speaks with each of them, so that one machine after the other can be changed. This page says in which order, " +
		"so that nothing is lost and nothing is stored twice.")
	p.section("CONFIGURATION")
	p.text("--config of serve and import-bulk takes the old files, told by what they hold: tstatrepository.conf, tstat.conf, " +
		"the XML files of math_repo and math_probe, and that of hydra with a module math_repo. Of a repository give both, " +
		"separated by a comma; tstat.conf names the folder of math_probe.xml itself. Relative paths are below the folder that " +
		"tstatrepo is started in, as they were for the old programs. With --print-config the TOML is printed that takes their place. Each " +
		"value says where it comes from, and each key that has no counterpart why; passwords are left out. Flags are not in it. Without " +
		"--print-config the old files are used as they are, and what has no counterpart is a warning.")
	p.literal("cd protocol-ri\n" +
		"tstatrepo serve --config tstatrepository.conf,math_repo.xml --print-config > tstatrepo.toml\n" +
		"tstatrepo serve --config tstatrepo.toml --check-config")
	p.item("[TLS] cert, key, ca-chain", "tls-cert, tls-key and tls-ca of [serve]. The old exporters of live lines and math_probe do not know TLS: tls-for of [serve] "+
		"leaves these endpoints without, tls-for of [probe] the exporters. Those want allow then, if they listen on real addresses.")
	p.item("[Roles], [Authorizations]", "role and authorize of [serve]; left out without [TLS], as they had no effect. A role with blanks around it is left out.")
	p.item("[component] workflow, client_host, client_port, listen-port", "supervisor or clients of [serve].")
	p.item("[component] registry_uri, registry_preload", "registry of [serve] if it is a file. The core registry and Tstat's are built in; none is fetched.")
	p.item("[component] scheduler_max_results, listen-cap-link, indirect_export_uri, other paths than the usual", "No counterpart.")
	p.item("repository_ip, repository_rrd_port", "listen of [collect-rrd], with the old importer's destination (carbon on the same machine) and names.")
	p.item("repository_ip, repository_streaming_port", "listen of [collect-streaming]; the lines go to standard output, as they did.")
	p.item("repository_log_port", "Only announced; math_repo's own file says what is done with the logs.")
	p.item("System_ID, tstat_rrd_path, math_path", "system-id, rrd-folder of [probe]; listen, log-folder, stream and type are those of math_probe.xml in math_path.")
	p.item("runtimeconf", "No counterpart: the capabilities tstat-log_..., which switch Tstat's logs, are not offered.")
	p.item("<config ip, port> of math_repo", "listen of [collect-log], or of [import-bulk]; an empty ip was every address, and then --allow is needed.")
	p.item("<import pollInterval>", "poll.")
	p.item("<fileHandler type, outDir>", "to (copy:DIR) and adopt.")
	p.item("<dbsHandler>, <dbs>, <scheduler>", "to (dbstream://), with schema, window and scheduler. math_repo connected to port 5432 whatever the file said, and so it is here.")
	p.item("<config directory, streamName, streamType> of math_probe", "log-folder, stream and type of [probe]; for import-bulk the SOURCE, --stream and --type. "+
		"--repoUrl is --to math://HOST:PORT, and --startTime is --since.")
	p.section(`"WHAT MATH_REPO STORED"`)
	p.text("adopt names math_repo's outDir. When serve or import-bulk --listen starts with it, it registers the streams of " +
		"running_imports.xml, so that no math_probe has to be started again, and takes over what is stored, once for each stream:")
	p.item("copy", "Each log in DIR/STREAM of a folder up to lastFinishedTimestamp (copy_stat_STREAM.xml) counts as stored. The probe's file is the same if it has the "+
		"same size; of another size it is fetched and compared, so that a copy of half a file, which math_repo did not notice, is replaced. "+
		"Other logs of these folders, of which math_repo took one each, are fetched: --type leaves them out. A copy that was moved away is fetched again.")
	p.item("dbs", "Rows before the end of the last window are there, and no row before that is stored any more. The end is lastOutputFileTime "+
		"(dbs_stat_STREAM.xml), or later if the database has later windows. Of a log that holds both, only the later rows are stored, "+
		"also those of the window that math_repo had not closed; a log whose folder ended more than a day earlier is not fetched at all. Table dbs.tstatrepo_adopted "+
		"keeps the time, so that it holds without adopt too. It holds for the stream's own log type; those that math_repo never took are fetched.")
	p.text("Other destinations have nothing of math_repo, and get everything that the probes still have. Spool files of the window that was open are not used: " +
		"their rows come again from the probe. If math_repo runs again after it was taken over, what it stores is stored twice: do not start it again.")
	p.section(`"THE REPOSITORY FIRST"`)
	p.text("1. Convert the configuration as above, and check it. Name the probes' networks with allow.\n\n" +
		"2. Stop math_repo. Under hydra take its module out of hydra's file first, or it is started again; scheduler and viewgen go on. Stop the " +
		"Python component (mpcom --config tstatrepository.conf). Take both out of cron, rc files and units.\n\n" +
		"3. Start tstatrepo serve, in the same time zone. Its log names each stream that is taken over. What the probes wrote " +
		"meanwhile is fetched now.\n\n" +
		"4. Old exporters of live lines connect again by themselves; what is on its way at the stop is lost, as at each restart of the old importer. An old exporter of RRDs " +
		"ends when a request fails, which it makes every five minutes: run tstat-exporter_rrd again, from before the stop on. Points may be sent twice without harm.\n\n" +
		"5. When every stream has been imported once (GET /DBSImport/0?status=1), adopt can be left out, and outDir of dbs be removed; of copy it is the store.")
	p.section(`"THEN THE PROBES"`)
	p.text("One at a time; the repository may be an old one still.\n\n" +
		"1. See what runs (runcap --status) and stop each exporter of the probe: runcap --stop --token TOKEN.\n\n" +
		"2. Stop the Python component (mpcom --config tstat.conf), and what it left behind: " +
		"math_probe, and 'tail -f' of live exporters. They go on when the component alone is killed.\n\n" +
		"3. Look at Tstat's runtime.conf: the old component switched logs off when a tstat-log_... specification ended. Switch on what is needed.\n\n" +
		"4. Start tstatrepo serve with the converted tstat.conf; peers of [probe] must name the repository. Run the exporters " +
		"again. The stream keeps its name, so that the repository knows its files: none is stored twice. RRDs are sent from the " +
		"begin of their history at first; that changes no point. Live lines begin with the newest folder, so that those that the old exporter had sent of it come again.\n\n" +
		"Without mPlane it is import-bulk --config math_probe.xml --to math://REPOSITORY:3000 in the place of math_probe, and stream --follow and rrd-push for the other two.")
	p.section(`"THE WAY BACK"`)
	p.text("Stop tstatrepo before the old program is started. math_repo goes on at the time of its own state, and stores again what " +
		"tstatrepo has stored since; in DBStream drop those windows first.")
	p.seeAlso("tstatrepo-serve(1)", "tstatrepo-import-bulk(1)", "tstatrepo-runcap(1)", "tstatrepo.toml(5)")
	return p.Bytes()
}

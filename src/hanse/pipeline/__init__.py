"""Jobs: the signed request that site, server and person agree on. The DAG's machine and scheduler come here."""

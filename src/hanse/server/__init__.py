"""The coordinator: members, sessions, jobs, and the services that sites and people call. Holds no data of a site."""

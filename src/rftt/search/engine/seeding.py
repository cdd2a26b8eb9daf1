from rftt.search.seeding import seed_from as seed_from

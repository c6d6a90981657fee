drop index concurrently tenants_texts_idx;

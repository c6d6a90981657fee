drop table key_credits;
drop table key_rate_windows;

alter table external_keys
    drop column rate_requests,
    drop column rate_window_seconds,
    drop column credits_amount,
    drop column credits_refill_amount,
    drop column credits_refill_seconds,
    drop column limits_version;

alter table api_keys
    drop column rate_requests,
    drop column rate_window_seconds,
    drop column credits_amount,
    drop column credits_refill_amount,
    drop column credits_refill_seconds,
    drop column limits_version;

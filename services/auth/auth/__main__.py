"""`python -m auth [serve|migrate|create-admin|...]`: the service, and what operators do beside it."""

from chassis.process import main

from auth.administration import create_admin, rotate_keys, rotate_payload_keys
from auth.bootstrap import bootstrap
from auth.restoring import key_id, restored
from auth.sealing_administration import migrate, rotate_data_keys, unseal, wrap_key
from auth.settings import Settings

if __name__ == "__main__":
    main(
        "auth",
        Settings,
        bootstrap,
        commands={
            "migrate": migrate,
            "unseal": unseal,
            "rotate-data-keys": rotate_data_keys,
            "create-admin": create_admin,
            "rotate-keys": rotate_keys,
            "rotate-payload-keys": rotate_payload_keys,
            "key-id": key_id,
            "restored": restored,
        },
        without_settings={"wrap-key": wrap_key},
    )

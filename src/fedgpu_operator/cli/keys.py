"""From the options that say who signs to a signer; keys are read here and shown nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedgpu_operator.adapters.chain.signers import Signer
    from fedgpu_operator.cli.options import KeyOptions


async def signer_from(keys: KeyOptions) -> Signer:
    """The signer that the options name, asked whether it holds the account where it is a service.

    Raises ConfigurationError for options that contradict each other, a file that cannot be read or another's
    account, ChainUnreachableError where a service does not answer.
    """
    keys.check()
    if keys.signer_url:
        from fedgpu_operator.adapters.chain.signers import RemoteSigner

        remote = RemoteSigner(keys.signer_url, keys.signer_address)
        try:
            await remote.check()
        except BaseException:
            await remote.aclose()
            raise
        return remote
    from fedgpu_operator.adapters.chain.signers import load_key

    if keys.keystore is not None:
        return await load_key(keys.keystore, keys.password_file)
    if keys.key_file is None:
        raise AssertionError("check() lets no other case through")
    return await load_key(keys.key_file)

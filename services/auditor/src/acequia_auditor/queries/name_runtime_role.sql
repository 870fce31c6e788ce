SELECT set_config('acequia.runtime_role', $1, true);

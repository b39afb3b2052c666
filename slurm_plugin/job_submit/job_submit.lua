-- Slurm's job_submit hook for a site that has no other. Goes beside slurm.conf, which says JobSubmitPlugins=lua.
-- A site that has a hook already adds `require` and `overspill.submit` to it: see README.md.

-- An error here would keep slurmctld from starting: without its modules Overspill is simply not there.
local is_installed, overspill = pcall(require, "overspill")
if not is_installed then
  slurm.log_error("%s", "overspill: not loaded: " .. tostring(overspill))
end

function slurm_job_submit(job_desc, part_list, submit_uid)
  if not is_installed then
    return slurm.SUCCESS
  end
  return overspill.submit(job_desc, part_list, submit_uid)
end

function slurm_job_modify()
  return slurm.SUCCESS
end

return slurm.SUCCESS
